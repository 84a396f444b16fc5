/*
 * The LoKr panel of AUTOMATIC1111 and Forge: a row of controls for each <lokr:…> tag of the prompt. The prompt is what
 * counts: a control writes into its tag, and follows whatever else changes the prompt.
 */
(function () {
    "use strict";

    const TAG = /<lokr:([^<>]+)>/gi;
    const NUMBER = /^\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*$/i;
    const STEP = 0.05;
    const ASK_MS = 500; // a name may still be being typed
    const AGAIN_MS = 5000; // no model is loaded yet
    const WATCH_MS = 400; // the host changes a prompt (parameters pasted, styles applied) without an event

    /** Tags of a prompt: {name, pieces, start, end}; pieces are what stands between colons, the name first. */
    function readTags(prompt) {
        return Array.from(prompt.matchAll(TAG), (match) => {
            const pieces = match[1].split(":");
            return {name: pieces[0].trim(), pieces, start: match.index, end: match.index + match[0].length};
        });
    }

    /**
     * Which piece says each strength: one by its name before one by its position; the text encoder's is the UNet's too
     * where that has none. -1: none does, which is strength 1.
     */
    function places(pieces) {
        const isNamed = (piece) => piece.includes("=");
        const named = (...names) => pieces.findIndex((piece, i) => i > 0 && isNamed(piece) && names.includes(keyOf(piece)));
        const [first = -1, second = -1] = pieces.flatMap((piece, i) => i > 0 && !isNamed(piece) ? [i] : []);
        const firstOf = (...found) => found.find((i) => i > 0) ?? -1;
        const te = firstOf(named("te", "clip"), first);
        return {te, unet: firstOf(named("unet", "model"), second, te)};
    }

    function keyOf(piece) {
        return piece.split("=")[0].trim().toLowerCase();
    }

    /** {te, unet, apart}: numbers, NaN for what is none; apart where the two are written one by one. */
    function strengths(pieces) {
        const {te, unet} = places(pieces);
        const read = (at) => {
            const text = at < 0 ? "1" : pieces[at].slice(pieces[at].indexOf("=") + 1);
            return NUMBER.test(text) ? Number(text) : NaN;
        };
        return {te: read(te), unet: read(unet), apart: te !== unet};
    }

    /** The pieces with the strength of a part ("te", "unet", or "both" where they are one number) written in its place. */
    function withStrength(pieces, part, value) {
        const at = places(pieces)[part === "both" ? "te" : part];
        const text = String(Math.round(value * 1000) / 1000);
        if (at < 0) {
            return [pieces[0], text, ...pieces.slice(1)];
        }
        return pieces.map((piece, i) => i === at ? piece.slice(0, piece.indexOf("=") + 1) + text : piece);
    }

    /** The pieces with one strength for both parts, the UNet's; or with the one that they had written for each. */
    function turned(pieces) {
        const {te, unet} = places(pieces);
        const value = String(strengths(pieces).unet);
        const others = pieces.filter((piece, i) => i > 0 && piece.includes("=") && i !== te && i !== unet);
        return [pieces[0], ...(te === unet ? [value, value] : [value]), ...others];
    }

    function element(kind, attributes, ...children) {
        const made = document.createElement(kind);
        Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
        made.append(...children);
        return made;
    }

    /** The panel of one tab. */
    class Panel {
        constructor(tab) {
            this.box = gradioApp().getElementById(`${tab}_lokr_panel`);
            this.accordion = gradioApp().getElementById(`${tab}_lokr_accordion`);
            this.prompt = gradioApp().querySelector(`#${tab}_prompt textarea`);
            this.rows = [];
            this.seen = null;
            this.prompt.addEventListener("input", () => this.follow());
            setInterval(() => this.follow(), WATCH_MS);
            this.follow();
        }

        /** Show the prompt's tags as they are now. Rows stay as long as their tags do, so a slider keeps its focus. */
        follow() {
            const text = this.prompt.value;
            const model = opts.sd_model_checkpoint;
            if (text === this.seen && model === this.model) {
                return;
            }
            if (model !== this.model) {
                this.rows.forEach((row) => row.ask());
            }
            this.seen = text;
            this.model = model;
            const tags = readTags(text);
            const alike = tags.length === this.rows.length && tags.every((tag, i) => this.rows[i].fits(tag));
            if (!alike) {
                this.rows = tags.map((tag, i) => this.rows.find((row) => row.fits(tag) && row.index === i) || new Row(this, tag, i));
                this.box.replaceChildren(...this.rows.map((row) => row.box));
            }
            tags.forEach((tag, i) => this.rows[i].show(tag));
            this.accordion.classList.toggle("lokr-idle", tags.length === 0);
        }

        /** Put other pieces, or nothing, in the place of a tag. */
        rewrite(index, pieces) {
            const tag = readTags(this.prompt.value)[index];
            if (!tag) {
                return;
            }
            const before = this.prompt.value.slice(0, tag.start);
            const after = this.prompt.value.slice(tag.end);
            this.prompt.value = pieces ? `${before}<lokr:${pieces.join(":")}>${after}` : before.trimEnd() + after;
            updateInput(this.prompt);
        }
    }

    /** The controls of one tag. */
    class Row {
        constructor(panel, tag, index) {
            this.panel = panel;
            this.index = index;
            this.name = tag.name;
            this.apart = strengths(tag.pieces).apart;
            this.status = element("span", {class: "lokr-status", role: "status"});
            this.controls = (this.apart ? ["te", "unet"] : ["both"]).map((part) => this.control(part));
            const turn = element("button", {
                type: "button",
                class: "lokr-button",
                "aria-pressed": String(this.apart),
                title: this.apart ? "One strength for both" : "Strengths for text encoder and UNet apart",
            }, "TE | UNet");
            turn.addEventListener("click", () => this.turn());
            const remove = element("button", {type: "button", class: "lokr-button", title: `Take ${this.name} out of the prompt`}, "✕");
            remove.addEventListener("click", () => panel.rewrite(index, null));
            const head = element("div", {class: "lokr-head"}, element("b", {}, this.name), this.status, turn, remove);
            this.box = element("div", {class: "lokr-row", role: "group", "aria-label": `LoKr ${this.name}`}, head, ...this.controls.map((c) => c.box));
            this.ask();
        }

        control(part) {
            const label = {both: "Strength", te: "Text encoder", unet: "UNet"}[part];
            const most = opts.lokr_panel_range || 2;
            const named = {"aria-label": `${label} of ${this.name}`, step: STEP};
            const slider = element("input", {...named, type: "range", min: -most, max: most});
            const number = element("input", {...named, type: "number"});
            const write = (source) => {
                if (source.value !== "") {
                    this.panel.rewrite(this.index, withStrength(this.pieces, part, Number(source.value)));
                }
            };
            slider.addEventListener("input", () => write(slider));
            number.addEventListener("input", () => write(number));
            const box = element("label", {class: "lokr-strength"}, element("span", {}, label), slider, number);
            return {part, slider, number, box};
        }

        fits(tag) {
            return tag.name === this.name && strengths(tag.pieces).apart === this.apart;
        }

        show(tag) {
            this.pieces = tag.pieces;
            const {te, unet} = strengths(tag.pieces);
            this.controls.forEach(({part, slider, number}) => {
                const value = part === "unet" ? unet : te;
                number.classList.toggle("lokr-wrong", Number.isNaN(value));
                slider.value = Number.isNaN(value) ? 0 : value;
                if (Number(number.value) !== value && document.activeElement !== number || number.value === "") {
                    number.value = Number.isNaN(value) ? "" : value;
                }
            });
        }

        turn() {
            this.panel.rewrite(this.index, turned(this.pieces));
            this.panel.rows[this.index]?.box.querySelector(".lokr-button").focus(); // the row is a new one
        }

        /** Tell what matches on the loaded model, or what is wrong with the name. */
        ask(after = ASK_MS) {
            clearTimeout(this.asking);
            this.asking = setTimeout(() => this.box.isConnected && this.fetchReport(), after);
        }

        fetchReport() {
            const headers = {"X-LoKr-Page": this.panel.box.dataset.key || ""}; // see webui/login.py
            fetch(`./lokr/v1/report?name=${encodeURIComponent(this.name)}`, {headers})
                .then(async (answer) => ({answer, body: await answer.json()}))
                .then(({answer, body}) => {
                    const near = !answer.ok && body.detail.near?.length ? `; near: ${body.detail.near.join(", ")}` : "";
                    const waits = answer.status === 503; // as it always is in Forge before the first picture
                    this.tell(answer.ok ? body.headline : body.detail.error + near, waits || answer.ok && body.refused === 0);
                    if (waits) {
                        this.ask(AGAIN_MS);
                    }
                })
                .catch(() => this.tell("", true)); // no answer: the server is busy or gone, which the host shows itself
        }

        tell(text, good) {
            this.status.textContent = text.split("\n")[0];
            this.status.title = text;
            this.status.classList.toggle("lokr-wrong", !good);
        }
    }

    /** A right click on a card shows what its pencil does. */
    document.addEventListener("contextmenu", (event) => {
        const card = event.target.closest("[id$='_lokr_cards'] .card");
        if (card) {
            event.preventDefault();
            card.querySelector(".edit-button").click();
        }
    });

    onUiLoaded(() => onOptionsAvailable(() => ["txt2img", "img2img"].forEach((tab) => {
        if (gradioApp().getElementById(`${tab}_lokr_panel`)) {
            new Panel(tab);
        }
    })));
})();
