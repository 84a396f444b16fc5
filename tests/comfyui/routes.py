"""A server whose folder of adapters has files that mean harm, and how its routes under /lokr/ are asked."""

from __future__ import annotations

import http.client
import json
import os
import struct
from urllib.parse import quote, urlsplit

import torch
from safetensors.torch import save_file

SECRET = "what-lies-outside"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
FLUX = {
    f"lora_unet_{block}_{number}_{layer}": (256, 256)
    for block, layer in (("double_blocks", "img_attn_proj"), ("single_blocks", "linear2"))
    for number in (3, 7)
}


def make_harm(loras, outside) -> None:
    """Files that a person may have been given."""
    (outside / "secret.txt").write_text(SECRET * 10)
    (outside / "secret.png").write_bytes(PNG + SECRET.encode())
    (outside / "text.safetensors").write_text(SECRET * 10)
    (loras / "link.safetensors").symlink_to(outside / "secret.txt")
    (loras / "dangling.safetensors").symlink_to(outside / "nothing")
    (loras / "away").symlink_to(outside, target_is_directory=True)
    (loras / "link.png").symlink_to(outside / "secret.png")
    (loras / "secret.txt").write_text(SECRET)
    (loras / "pickle.ckpt").write_bytes(b"\x80\x04" + SECRET.encode())
    (loras / "pickle.safetensors").write_bytes(b"\x80\x04" + SECRET.encode() * 9)
    (loras / "empty.safetensors").write_bytes(b"")
    (loras / "long-header.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{")
    huge = b'{"__metadata__":{"a":"' + b"x" * 20_000_000 + b'"}}'
    (loras / "huge-header.safetensors").write_bytes(struct.pack("<Q", len(huge)) + huge)
    (loras / "no-json.safetensors").write_bytes(struct.pack("<Q", 9) + b'{"a": nul')
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    (loras / "deep.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    axes = json.dumps({"a.lokr_w1": {"dtype": "F32", "shape": [1] * 3000, "data_offsets": [0, 4]}}).encode()
    (loras / "axes.safetensors").write_bytes(struct.pack("<Q", len(axes)) + axes + b"\0" * 4)
    broken = {"a.lokr_w1": torch.ones(2, 2), "a.lokr_w2": torch.full((2, 2), float("nan"))}
    save_file(broken, str(loras / "nan.safetensors"))
    for name, size in (("large", 9 << 30), ("large-picture", 1)):
        with (loras / f"{name}.safetensors").open("wb") as file:
            file.truncate(size)
    for name in ("text-picture", "large-picture"):
        (loras / f"{name}.safetensors").write_bytes((loras / "style.safetensors").read_bytes())
    (loras / "text-picture.png").write_text(SECRET)
    with (loras / "large-picture.png").open("wb") as file:
        file.write(PNG)
        file.truncate(40 << 20)
    os.mkfifo(loras / "pipe.safetensors")


# What is asked for as ?name=, as it stands in the address.
def ask(server, path: str) -> tuple[int, dict, bytes]:
    """A request with the path as it stands: no client that tidies it up."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def info(server, name: str) -> dict:
    status, _, body = ask(server, f"/lokr/info?name={quote(name)}")
    assert status == 200, body
    return json.loads(body)


def refused(server, path: str) -> dict:
    status, headers, body = ask(server, path)
    assert 400 <= status < 500, (path[:100], status, body[:300])
    assert headers["Content-Type"].startswith("application/json")
    assert SECRET.encode() not in body and b"root:" not in body
    assert server.base.as_posix().encode() not in body, "the answer tells where the user's files are"
    return json.loads(body)


def listed(server) -> dict[str, dict]:
    """The adapters by name, once all are read; a first answer has those that were read within 0.3 s."""
    answer = server.get("/lokr/adapters")
    found = {entry["name"]: entry for entry in answer["adapters"]}
    while answer["reading"]:
        answer = server.get(f"/lokr/adapters?since={answer['position']}")
        found |= {entry["name"]: entry for entry in answer["adapters"]}
    return found


def post(server, path: str, body: bytes, kind: str = "application/json") -> tuple[int, dict]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
