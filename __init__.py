"""ComfyUI's door. A ComfyUI pack is run as a module of its own, so everything inside is reached by relative imports."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import LoKrExtension

    return LoKrExtension()
