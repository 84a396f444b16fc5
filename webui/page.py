"""The tab of cards, and what a card's pencil opens.

The door calls ``register()`` in ``on_before_ui``, where the host collects its tabs.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import gradio as gr
from modules import errors, shared, ui_extra_networks, ui_extra_networks_user_metadata
from modules.ui_extra_networks import quote_js

from lokr_core.errors import LoKrError
from lokr_core.inspection import frequent_tags
from lokr_core.strengths import SLIDER_LIMIT

from . import library, network, presets, settings
from .listing import Entry

# Marks the card of a broken file, see style.css; the host puts search terms into a card as they are.
_BROKEN = "<i class='lokr-broken'></i>"


def register() -> None:
    ui_extra_networks.register_page(LoKrPage())


class LoKrPage(ui_extra_networks.ExtraNetworksPage):
    """Cards of the LoKr files, then of the broken ones. An item's name is ``Entry.name``, which is one file's only."""

    def __init__(self):
        super().__init__("LoKr")

    def refresh(self) -> None:
        library.refresh()

    def list_items(self) -> Iterator[dict]:
        for index, entry in enumerate([*library.entries(), *library.broken()]):
            try:
                item = self._item(entry, index)
                base_model = entry.outline.base_model if entry.outline else ""
                if not presets.hides(base_model, item["user_metadata"].get("sd version", "")):
                    yield item
            except Exception as error:  # what lies beside a file is anyone's text, and must not take the tab away
                errors.display(error, f"making the LoKr card of {entry.path}")

    def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> dict | None:
        """One card anew, after its user metadata were edited. Returns None if the file is gone."""
        entry = _entry(name)
        return None if entry is None else self._item(entry, index)

    def allowed_directories_for_previews(self) -> list[str]:
        return [str(folder) for folder in library.folders()]

    def create_user_metadata_editor(self, ui, tabname: str) -> LoKrEditor:
        return LoKrEditor(ui, tabname, self)

    def create_html(self, tabname: str, *, empty: bool = False) -> str:
        """The tab, its cards as large as the settings say."""
        width, height = settings.card_size()
        size = f"width: {width}px; " * bool(width) + f"height: {height}px" * bool(height)
        style = f"<style>#{tabname}_{self.extra_networks_tabname}_cards .card {{{size}}}</style>" if size else ""
        return style + super().create_html(tabname, empty=empty)

    def _item(self, entry: Entry, index: int | None) -> dict:
        path, metadata = str(entry.path.with_suffix("")), entry.outline.metadata if entry.outline else {}
        item = {
            "name": entry.name,
            "filename": str(entry.path),
            "shorthash": entry.known_hash[:12],
            "preview": self.find_preview(path) or self._embedded_preview(path, entry, metadata),
            "description": self.find_description(path),
            "search_terms": [html.escape(term) for term in self._search_terms(entry)],
            "local_preview": f"{path}.{shared.opts.samples_format}",
            "metadata": metadata,
            "sort_keys": {"default": index, **self.get_sort_keys(str(entry.path))},
        }
        self.read_user_metadata(item)
        user = item["user_metadata"]
        weight = _preferred_weight(user)
        strength = quote_js(f"{weight:g}") if weight else "opts.extra_networks_default_multiplier"
        words = user.get("activation text", "") if user else ", ".join(_words(entry))
        words = f" {words}" if words else ""
        item["prompt"] = f"{quote_js(f'<lokr:{entry.tag_name}:')} + {strength} + {quote_js('>' + words)}"
        negative = f"({user['negative text']}:1)" if user.get("negative text") else ""
        item["negative_prompt"] = quote_js(negative)
        if entry.problem:
            item["description"] = f"This file cannot be read. {entry.problem}"
            item["search_terms"].append(_BROKEN)
            item["onclick"] = html.escape("this.querySelector('.edit-button').click();")  # a tag of it would do nothing
        return item

    def _embedded_preview(self, path: str, entry: Entry, metadata: Mapping) -> str | None:
        """A picture in the file's metadata. Returns None if there is none, or its entry is not a list of pictures."""
        try:
            return self.find_embedded_preview(path, quote(entry.name), metadata)
        except (ValueError, TypeError):
            return None

    def _search_terms(self, entry: Entry) -> list[str]:
        """What the tab's search finds a card by: the path below the model folder too, which its folder buttons use."""
        outline = entry.outline
        terms = [self.search_terms_from_path(str(entry.path)), entry.alias, entry.known_hash, entry.title]
        terms += [outline.base_model, outline.producer, *outline.trigger_words] if outline else ["broken"]
        return [term for term in dict.fromkeys(terms) if term]


class LoKrEditor(ui_extra_networks_user_metadata.UserMetadataEditor):
    """What a file is and does to the loaded model, and the user's own notes on it, kept beside it as ``.json``."""

    def create_editor(self) -> None:
        self.create_default_editor_elems()
        report = gr.HTML()
        tags = gr.HighlightedText(label="Trigger words and tags of the training: click to add or remove")
        activation = gr.Text(label="Activation text", info="Added to the prompt along with the LoKr")
        weight = gr.Slider(
            label="Preferred weight", info="The strength a click inserts; 0: the host's default multiplier",
            minimum=-SLIDER_LIMIT, maximum=SLIDER_LIMIT, step=0.01,
        )  # fmt: skip
        negative = gr.Text(label="Negative prompt", info="Added to the negative prompt")
        self.edit_notes = gr.TextArea(label="Notes", lines=4)
        self.create_default_buttons()
        tags.select(_toggled, inputs=[activation], outputs=[activation], show_progress=False)
        shown = [self.edit_name, self.edit_description, self.html_filedata, self.html_preview, self.edit_notes]
        self.button_edit.click(
            self.put_values_into_components,
            inputs=[self.edit_name_input],
            outputs=[*shown, report, tags, activation, weight, negative],
        ).then(lambda: gr.update(visible=True), inputs=[], outputs=[self.box])
        edited = [self.edit_description, activation, weight, negative, self.edit_notes]
        self.setup_save_handler(self.button_save, self.save_user_metadata, edited)

    def put_values_into_components(self, name: str) -> list:
        """Values of the components that ``create_editor`` shows, in their order."""
        values = super().put_values_into_components(name)
        user, metadata = self.get_user_metadata(name), self.page.items[name].get("metadata") or {}
        entry = _entry(name)
        words = [(word, "trigger") for word in _words(entry)]
        known = {word for word, _ in words}
        words += [(tag, str(n)) for tag, n in frequent_tags(metadata, most=24).items() if tag not in known]
        return [
            *values,
            _report_html(entry) if entry else "",
            gr.update(value=words, visible=bool(words)),
            user.get("activation text", ""),
            _preferred_weight(user),
            user.get("negative text", ""),
        ]

    def get_metadata_table(self, name: str) -> list[tuple[str, str]]:
        """The host's rows, and what the file's metadata say."""
        rows = super().get_metadata_table(name)
        entry = _entry(name)
        if entry is None or entry.outline is None:
            return rows
        trained = ", ".join(f"{key} {value}" for key, value in entry.outline.trained_with.items())
        details = [
            ("Hash: ", entry.shorthash),
            ("Name in a prompt: ", entry.tag_name),
            ("Base model: ", entry.outline.base_model_text),
            ("Holds: ", f"{entry.outline.kind}, {entry.outline.modules} modules"),
            ("Producer: ", entry.outline.producer),
            ("Trained with: ", trained),
            ("Trigger words: ", ", ".join(entry.outline.trigger_words)),
        ]
        rows = [(label, value) for label, value in rows if label != "Hash: "]
        return rows + [(label, html.escape(value)) for label, value in details if value]

    def save_user_metadata(
        self, name: str, description: str, activation: str, weight: float, negative: str, notes: str
    ) -> None:
        user = self.get_user_metadata(name)
        user["description"] = description
        user["activation text"] = activation
        user["preferred weight"] = weight
        user["negative text"] = negative
        user["notes"] = notes
        self.write_user_metadata(name, user)


def _entry(name: str) -> Entry | None:
    """The file of a card. Returns None if it is gone."""
    return next((entry for entry in [*library.entries(), *library.broken()] if entry.name == name), None)


def _words(entry: Entry | None) -> list[str]:
    """The trigger words that the file itself names."""
    return entry.outline.trigger_words if entry and entry.outline else []


def _preferred_weight(user: Mapping) -> float:
    """The strength in the user's notes on a file, 0 if there is none."""
    try:
        return float(user.get("preferred weight") or 0)
    except (TypeError, ValueError):
        return 0.0


def _toggled(activation: str, event: gr.SelectData) -> str:
    """``activation`` with the clicked word put in, or taken out where it is in."""
    words = [word.strip() for word in activation.split(",") if word.strip()]
    clicked = event.value[0]
    words = [word for word in words if word != clicked] if clicked in words else [*words, clicked]
    return ", ".join(words)


def _report_html(entry: Entry) -> str:
    """What became of each module on the loaded model, the headline first."""
    try:
        report = network.report(entry)
    except LoKrError as error:
        return f"<pre class='lokr-report lokr-error'>{html.escape(str(error))}</pre>"
    if report is None:
        return "<p class='lokr-report'>No model is loaded yet, so nothing can be matched.</p>"
    return (
        "<details class='lokr-report'><summary>With the loaded model: "
        f"{html.escape(report.headline)}</summary><pre>{html.escape(report.text())}</pre></details>"
    )
