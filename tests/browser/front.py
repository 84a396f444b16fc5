"""ComfyUI's real front end in a real browser, as a person uses it."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, TimeoutError

# The page's last step of its start: it opens a workflow, after the scripts of all packs.
READY = "window.app?.graph && app.extensionManager?.workflow?.activeWorkflow && !!LiteGraph.getNodeType('LoKrStack')"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

# Resolves once nodes and faces had the same places, sizes and texts at so many looks, each after a frame.
STILL = """looks => new Promise(resolve => {
    let last = '', same = 0;
    const look = () => {
        const shown = [...document.querySelectorAll('[data-node-id], .lokr-face-host, dialog.lokr-dialog')]
            .map(element => {
                const {x, y, width, height} = element.getBoundingClientRect();
                return [x, y, width, height, element.textContent];
            });
        const now = JSON.stringify([shown, app.graph.nodes.map(node => [node.id, ...node.pos, ...node.size])]);
        same = now === last ? same + 1 : 0;
        last = now;
        if (same >= looks) resolve();
        else setTimeout(() => requestAnimationFrame(look), 30);
    };
    look();
})"""


@dataclass
class Front:
    """A page of ComfyUI's front end.

    vue: with its Vue nodes ("Nodes 2.0") and not LiteGraph's canvas; language: of the page
    """

    page: Page
    url: str
    vue: bool = False
    theme: str = "dark"
    language: str = "en"
    errors: list[str] = field(default_factory=list)

    def open(self) -> Front:
        self.page.set_default_timeout(60_000)
        self.page.on("dialog", lambda dialog: dialog.accept())  # "leave this page?"
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.store_settings()
        self.page.goto(self.url)
        self.wait_until_up().empty()
        return self

    def reload(self) -> Front:
        """As a person does; with this page's settings, whatever other pages of the server have set since."""
        self.store_settings()
        self.page.reload()
        return self.wait_until_up()

    def wait_until_up(self) -> Front:
        self.page.wait_for_function(READY, timeout=90_000)
        self.still()
        return self

    def store_settings(self) -> None:
        """Put this page's settings on the server, which a page reads when it starts."""
        settings = {"Comfy.VueNodes.Enabled": self.vue, "Comfy.ColorPalette": self.theme, "Comfy.Locale": self.language}
        settings |= {"Comfy.Minimap.Visible": False, "Comfy.TutorialCompleted": True}
        request = urllib.request.Request(f"{self.url}/settings", json.dumps(settings).encode(), method="POST")
        urllib.request.urlopen(request, timeout=60).close()

    def still(self, looks: int = 4) -> None:
        """Wait until nothing moves on the page: as long as it takes on a busy machine, and no longer on another."""
        self.page.evaluate(STILL, looks)

    def setting(self, name: str, value: object) -> None:
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])

    # the graph ----------------------------------------------------------------------------------------------------

    def load(self, prompt: dict, places: dict[int, tuple[int, int]] | None = None) -> None:
        """Open a workflow given in API form, with its nodes at ``places``; the canvas at scale 1."""
        self.page.evaluate("prompt => app.loadApiJson(prompt, 'test')", prompt)
        self.arrange(places or {})

    def arrange(self, places: dict[int, tuple[int, int]], scale: float = 1.0) -> None:
        self.page.evaluate(
            """([places, scale]) => {
                for (const [id, place] of Object.entries(places)) {
                    const node = app.graph.getNodeById(Number(id));
                    if (node) node.pos = place;
                }
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset = [60, 130];
                app.graph.setDirtyCanvas(true, true);
            }""",
            [{str(node): place for node, place in places.items()}, scale],
        )
        self.still()

    def add(self, kind: str, place: tuple[int, int] = (60, 60)) -> int:
        """A new node; its id."""
        found = self.page.evaluate(
            """([kind, place]) => {
                const node = LiteGraph.createNode(kind);
                node.pos = place;
                app.graph.add(node);
                app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
                return node.id;
            }""",
            [kind, place],
        )
        self.still()
        return found

    def search(self, place: tuple[float, float], words: str, title: str) -> None:
        """Double click on the canvas and type; the search shows the node of that title then, and takes Enter."""
        field = self.page.locator("input:focus")  # a node has fields with the search's role, but not the focus
        for _ in range(3):  # two clicks far apart, on a busy machine, are no double click
            self.page.mouse.dblclick(*place)
            with suppress(TimeoutError):
                field.wait_for(timeout=10_000)
                break
        self.page.keyboard.type(words, delay=30)
        self.page.get_by_text(title, exact=True).first.wait_for()
        self.still(20)  # at least 0.6 s: the search orders its hits once it shows them

    def empty(self) -> None:
        """A new workflow, and no other open."""
        self.page.keyboard.press("Escape")
        self.page.evaluate(
            """async () => {
                const workflows = app.extensionManager.workflow;
                await app.extensionManager.command.execute('Comfy.NewBlankWorkflow');
                for (const other of [...workflows.openWorkflows])
                    if (other.path !== workflows.activeWorkflow.path) await workflows.closeWorkflow(other);
            }"""
        )
        self.page.wait_for_function("app.graph.nodes.length === 0")
        self.arrange({})

    def values(self, node: int) -> dict:
        """The values of a node's widgets that are saved."""
        return self.page.evaluate(
            """id => Object.fromEntries(app.graph.getNodeById(id).widgets
                .filter(widget => widget.serialize !== false).map(widget => [widget.name, widget.value]))""",
            node,
        )

    def serialized(self) -> list[dict]:
        """What is saved of each node: kind, values and links, by id."""
        return self.page.evaluate(
            """() => app.graph.serialize().nodes
                .map(({id, type, widgets_values, inputs, properties}) => ({
                    id, type, values: widgets_values ?? [], links: inputs.map(input => input.link),
                    snap: properties.lokr_snap_steps ?? null}))
                .sort((a, b) => a.id - b.id)"""
        )

    def api(self, node: int) -> dict:
        """The inputs that a node is queued with."""
        prompt = json.loads(self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))
        return prompt[str(node)]["inputs"]

    # a person -----------------------------------------------------------------------------------------------------

    def slot(self, node: int, name: str, output: bool = False) -> tuple[float, float]:
        """Where on the screen a node's input or output is."""
        if self.vue:
            side = "output" if output else "input"
            slots = self.page.evaluate(
                "([id, side]) => app.graph.getNodeById(id)[side + 's'].map(slot => slot.name)", [node, side]
            )
            dots = self.page.locator(f"[data-node-id='{node}'] .lg-slot--{side} .slot-dot")
            box = dots.nth(slots.index(name)).bounding_box()
            return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        return tuple(
            self.page.evaluate(
                """([id, name, output]) => {
                    const node = app.graph.getNodeById(id);
                    const slots = output ? node.outputs : node.inputs;
                    const [x, y] = node.getConnectionPos(!output, slots.findIndex(slot => slot.name === name));
                    const {scale, offset} = app.canvas.ds;
                    const box = app.canvas.canvas.getBoundingClientRect();
                    return [(x + offset[0]) * scale + box.left, (y + offset[1]) * scale + box.top];
                }""",
                [node, name, output],
            )
        )

    def title(self, node: int) -> tuple[float, float]:
        """A place on a node's title."""
        return tuple(
            self.page.evaluate(
                """id => {
                    const [x, y] = app.graph.getNodeById(id).pos;
                    const {scale, offset} = app.canvas.ds;
                    const box = app.canvas.canvas.getBoundingClientRect();
                    return [(x + 60 + offset[0]) * scale + box.left, (y - 12 + offset[1]) * scale + box.top];
                }""",
                node,
            )
        )

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=steps)
        self.page.mouse.up()
        self.page.wait_for_timeout(150)

    def connect(self, source: int, output: str, target: int, name: str) -> None:
        """Drag a link from an output to an input."""
        self.drag(self.slot(source, output, output=True), self.slot(target, name))

    def undo(self) -> None:
        tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
        self.page.evaluate(f"() => {{ window.before = {tracker}.activeState; }}")
        self.page.keyboard.press("Control+z")
        self.page.wait_for_function(f"{tracker}.activeState !== before && !{tracker}._restoringState")
        self.still(8)

    def drop_file(self, path: Path, kind: str) -> None:
        """Drop a file onto the canvas, as from a file manager."""
        data = base64.b64encode(path.read_bytes()).decode()
        self.page.evaluate(
            """async ([data, name, type]) => {
                const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name, {type}));
                const options = {bubbles: true, cancelable: true, dataTransfer: transfer, clientX: 900, clientY: 650};
                document.elementFromPoint(900, 650).dispatchEvent(new DragEvent('drop', options));
            }""",
            [data, path.name, kind],
        )

    def run(self) -> str:
        """Press Run and wait for the end: "success" or "error"."""
        self.page.evaluate(
            """() => {
                window.ended = null;
                for (const end of ['success', 'error', 'interrupted'])
                    app.api.addEventListener('execution_' + end, () => { window.ended = end; }, {once: true});
            }"""
        )
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function("window.ended !== null", timeout=90_000)
        self.still()
        return self.page.evaluate("window.ended")

    # what the pack adds -------------------------------------------------------------------------------------------

    def face(self, node: int, key: str) -> Locator:
        """The element with that data-key on a node."""
        if self.vue:
            return self.page.locator(f"[data-node-id='{node}'] [data-key='{key}']")
        self.page.evaluate(
            """id => app.graph.getNodeById(id).widgets
                .forEach(widget => { if (widget.element) widget.element.dataset.node = id; })""",
            node,
        )
        return self.page.locator(f"[data-node='{node}'] [data-key='{key}']")

    def shows(self, node: int, badge: tuple[str, str], seconds: float = 15) -> bool:
        """Whether the node's badge comes to be that: the page draws late on a busy machine."""
        for _ in range(int(seconds * 5)):
            if self.badge(node) == badge:
                return True
            self.page.wait_for_timeout(200)
        return False

    def badge(self, node: int) -> tuple[str, str]:
        """(level, text) of a node's badge."""
        badge = self.face(node, "badge")
        return badge.get_attribute("data-level"), badge.locator(".lokr-badge-text").inner_text()

    def dialog(self, kind: str) -> Locator:
        return self.page.locator(f"dialog.lokr-dialog[data-kind='{kind}']")

    def focused(self) -> str | None:
        """The data-key of what has the focus."""
        return self.page.evaluate("document.activeElement?.getAttribute('data-key')")


@contextmanager
def opened(browser: Browser, url: str, size: tuple[int, int] = (1500, 900), **how) -> Iterator[Front]:
    """A front end in a profile of its own, closed at the end."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    try:
        yield Front(context.new_page(), url, **how).open()
    finally:
        context.close()
