// Elements in one expression, buttons, redrawing with the focus kept.

/**
 * An element: `h("button.lokr-icon", {title: "Info", onclick: show}, "i")`. Properties go to the element, `data-`,
 * `aria-` and `role` to its attributes; undefined and false leave an attribute out.
 * @param {string} tag the tag's name and classes
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    const element = document.createElement(name);
    if (classes.length) element.className = classes.join(" ");
    put(element, properties);
    for (const child of children) if (child || child === "") element.append(child);
    return element;
}

const SVG = "http://www.w3.org/2000/svg";

/**
 * The same for SVG: every property but handlers is an attribute.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function svg(tag, properties = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    const element = document.createElementNS(SVG, name);
    if (classes.length) element.setAttribute("class", classes.join(" "));
    for (const [key, value] of Object.entries(properties)) {
        if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
        else if (value !== undefined && value !== false) element.setAttribute(key, String(value));
    }
    for (const child of children) if (child || child === "") element.append(child);
    return element;
}

/** @param {HTMLElement} element @param {Record<string, any>} properties */
function put(element, properties) {
    for (const [key, value] of Object.entries(properties)) {
        if (key.startsWith("aria-") || key.startsWith("data-") || key === "role") {
            if (value !== undefined && value !== false) element.setAttribute(key, String(value));
        } else if (key === "style") Object.assign(element.style, value);
        else if (value !== undefined) /** @type {any} */ (element)[key] = value;
    }
}

/**
 * A button whose Enter and Space do not reach ComfyUI's shortcuts.
 * @param {string} label the accessible name and the tooltip
 * @param {string | Node} content
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [properties]
 */
export function button(label, content, onclick, properties = {}) {
    const element = h("button.lokr-button", { type: "button", title: label, "aria-label": label, onclick }, content);
    put(element, properties);
    element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Enter" || event.key === " ") event.stopPropagation();
    });
    return element;
}

/**
 * Replace the children of `root`; the focus goes to the element with the same `data-key`, or with `key`.
 * @param {HTMLElement | SVGElement} root
 * @param {(Node | null | false)[]} children
 * @param {string} [key]
 */
export function redraw(root, children, key) {
    const active = document.activeElement;
    const wanted = key ?? (active && root.contains(active) ? active.getAttribute("data-key") : null);
    root.replaceChildren(.../** @type {Node[]} */ (children.filter(Boolean)));
    if (wanted) {
        const next = /** @type {HTMLElement | null} */ (root.querySelector(`[data-key="${CSS.escape(wanted)}"]`));
        next?.focus({ preventScroll: true });
    }
}

/** Copy to the clipboard, also on a page without https, which has no clipboard API. @param {string} text */
export async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const holder = h("textarea", { value: text, style: { position: "fixed", opacity: "0" } });
        (document.querySelector("dialog.lokr-dialog[open]") ?? document.body).append(holder);
        holder.select();
        document.execCommand("copy");
        holder.remove();
    }
}

/** @param {number} bytes */
export function fileSize(bytes) {
    if (bytes >= 2 ** 30) return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
    return bytes >= 2 ** 20 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${Math.ceil(bytes / 1024)} KiB`;
}
