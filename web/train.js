// LoKr Train's face: progress with the loss, its curve and the newest sample, while the node runs and afterwards.

import { h, svg } from "./dom.js";
import { addFace } from "./face.js";
import { api, app, nodeOfExecution } from "./host.js";
import { t, toldLines } from "./texts.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {object} Progress what the node sends, and its last output
 * @property {string} node
 * @property {number} step
 * @property {number} steps
 * @property {number} seconds per step
 * @property {[number, number][]} curve (step, mean loss since the point before)
 * @property {string | null} [sample] a picture's URL
 * @property {string} [file] what was written, at the end
 * @property {string} [text]
 */

const KIND = "LoKrTrain";
const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [300, 110, 38, 8, 16];

/** @type {WeakMap<Node, Face>} */
const faces = new WeakMap();

class Face {
    constructor() {
        this.status = h("div.lokr-train-status", { "data-key": "train-status", role: "status" }, t("not run yet"));
        this.bar = h("progress", { "data-key": "train-progress", max: 1, value: 0, hidden: true });
        this.curve = svg("svg.lokr-train-curve", {
            "data-key": "train-curve",
            viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
            preserveAspectRatio: "none",
            role: "img",
            "aria-label": t("Loss"),
        });
        this.curve.style.display = "none";
        this.sample = h("img", { "data-key": "train-sample", alt: t("Newest sample"), hidden: true });
        this.element = h("div.lokr-train", {}, this.status, this.bar, this.curve, this.sample);
        this.step = 0;
    }

    /** @param {string} text @param {"" | "warn" | "error"} [level] */
    say(text, level = "") {
        this.status.textContent = text;
        this.status.dataset.level = level;
    }

    /** @param {Progress} progress */
    show(progress) {
        const { step, steps, curve } = progress;
        this.step = step;
        this.bar.hidden = false;
        this.bar.max = steps;
        this.bar.value = step;
        this.say(progress.text ? toldLines(progress.text) : runningText(progress));
        this.draw(curve);
        if (progress.sample) {
            this.sample.src = progress.sample;
            this.sample.hidden = false;
        }
    }

    /** @param {[number, number][]} curve */
    draw(curve) {
        if (!curve.length) return;
        const losses = curve.map(([, loss]) => loss);
        const [low, high, last] = [Math.min(...losses), Math.max(...losses), curve[curve.length - 1][0]];
        const x = (/** @type {number} */ step) => LEFT + ((WIDTH - LEFT - 6) * step) / last;
        const y = (/** @type {number} */ loss) =>
            HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (loss - low)) / (high - low || 1);
        const line = (/** @type {string} */ kind, /** @type {number[]} */ values) =>
            svg(`polyline.lokr-train-${kind}`, {
                points: values.map((loss, at) => `${x(curve[at][0]).toFixed(1)},${y(loss).toFixed(1)}`).join(" "),
            });
        const label = (/** @type {number} */ across, /** @type {number} */ down, /** @type {string} */ text) =>
            svg("text", { x: across, y: down, "text-anchor": "end" }, text);
        this.curve.style.display = "";
        this.curve.replaceChildren(
            line("each", losses),
            line("mean", means(losses)),
            label(LEFT - 4, TOP + 8, short(high)),
            label(LEFT - 4, HEIGHT - BOTTOM, short(low)),
            label(WIDTH - 6, HEIGHT - 4, t("step {step}", { step: last })),
        );
    }
}

/** @param {Progress} progress */
function runningText({ step, steps, curve, seconds }) {
    const parts = [t("step {step} of {steps}", { step, steps })];
    if (curve.length) parts.push(t("loss {loss}", { loss: short(curve[curve.length - 1][1]) }));
    if (seconds && steps > step) {
        const left = time(seconds * (steps - step));
        parts.push(t("{seconds} s a step, {left} left", { seconds: short(seconds), left }));
    }
    return parts.join(" · ");
}

/** The mean of each value and up to a tenth of the values before it. @param {number[]} values */
function means(values) {
    const size = Math.max(1, Math.ceil(values.length / 10));
    return values.map((_, at) => {
        const some = values.slice(Math.max(0, at - size + 1), at + 1);
        return some.reduce((sum, value) => sum + value, 0) / some.length;
    });
}

/** Three digits, in at most seven characters. @param {number} value */
function short(value) {
    return value && Math.abs(value) < 0.001 ? value.toExponential(1) : Number(value.toPrecision(3)).toString();
}

/** @param {number} seconds */
function time(seconds) {
    if (seconds < 100) return t("{number} s", { number: Math.ceil(seconds) });
    if (seconds < 6000) return t("{number} min", { number: Math.ceil(seconds / 60) });
    return t("{number} h", { number: (seconds / 3600).toFixed(1) });
}

/** The face of the node with an execution id. @param {unknown} id */
function faceOf(id) {
    const node = id == null ? null : nodeOfExecution(String(id));
    return node ? faces.get(node) : undefined;
}

/** Offer new files in the open nodes too, as the page's key R does. */
function offerFiles() {
    /** @type {any} */ (app).refreshComboInNodes?.();
}

app.registerExtension({
    name: "comfyui-lokr.train",
    init() {
        document.head.append(h("link", { rel: "stylesheet", href: new URL("./train.css", import.meta.url).href }));
    },
    setup() {
        const listen = (/** @type {string} */ event, /** @type {(detail: any) => void} */ then) =>
            api.addEventListener(/** @type {any} */ (event), (/** @type {any} */ { detail }) => then(detail));
        listen("lokr.train", (progress) => faceOf(progress.node)?.show(progress));
        listen("executed", ({ node, display_node, output }) => {
            const [progress] = output?.lokr_train ?? [];
            if (!progress) return;
            faceOf(display_node ?? node)?.show(progress);
            offerFiles();
        });
        listen("execution_error", ({ node_id, exception_message }) => {
            const face = faceOf(node_id);
            face?.say(toldLines(exception_message.trim()), "error");
            if (face?.step) offerFiles();
        });
        listen("execution_interrupted", ({ node_id }) => {
            const face = faceOf(node_id);
            face?.say(t("stopped after step {step}; the next run goes on from there", { step: face.step }), "warn");
            if (face?.step) offerFiles();
        });
    },
    nodeCreated(node) {
        if (node.comfyClass !== KIND) return;
        const face = new Face();
        if (!addFace(node, "lokr_train", t("LoKr training"), face.element, 24)) return;
        faces.set(node, face);
        node.setSize([Math.max(node.size[0], 340), node.computeSize()[1]]);
    },
});
