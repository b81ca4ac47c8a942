"""Measures of a page that run inside it."""

CONTRAST = """() => {
  const parse = (text) => {
    const numbers = (text.match(/-?[\\d.]+(e-?\\d+)?/g) ?? []).map(Number);
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    const [red, green, blue, alpha = 1] = numbers;
    return { rgb: [red, green, blue].map((part) => part * scale), alpha };
  };
  const over = (top, under) => top.rgb.map((part, at) => part * top.alpha + under[at] * (1 - top.alpha));
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = parse(getComputedStyle(document.body).backgroundColor).rgb;
  const paintOf = (node) => {
    const style = getComputedStyle(node);
    if (!(node instanceof SVGElement)) return style.backgroundColor;
    return ["rect", "circle"].includes(node.tagName) && !style.fill.startsWith("url") ? style.fill : "rgba(0, 0, 0, 0)";
  };
  /* What lies under a point: the layers below the text, from the bottom up. */
  const under = (x, y, node) => {
    const stack = document.elementsFromPoint(x, y);
    // What is not at its own place is clipped or scrolled away.
    if (!stack.includes(node)) return null;
    return stack.slice(stack.indexOf(node)).reverse().reduce((rgb, layer) => over(parse(paintOf(layer)), rgb), ground);
  };
  const faint = [];
  let seen = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    const node = text.parentElement;
    if (!text.data.trim() || ["SCRIPT", "NOSCRIPT", "TITLE", "title"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const range = document.createRange();
    range.selectNodeContents(text);
    const box = range.getBoundingClientRect();
    if (style.visibility === "hidden" || style.opacity === "0" || box.width < 1 || box.bottom < 0) continue;
    const colour = parse(node instanceof SVGElement ? style.fill : style.color);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    for (const share of [0.05, 0.5, 0.95]) {
      const base = under(box.left + share * box.width, box.top + box.height / 2, node);
      if (base === null) continue;
      seen += 1;
      const found = ratio(over(colour, base), base);
      if (found < least) {
        faint.push([text.data.trim(), Number(found.toFixed(2)), style.color, base.map(Math.round)]);
        break;
      }
    }
  }
  return [seen, faint];
}"""
"""How many places were measured, and the texts of too little contrast: text, ratio, colour, ground."""

NAMELESS = """() => {
  const isShown = (node) => node.checkVisibility();
  const nameOf = (node) =>
    node.getAttribute("aria-label") || node.textContent.trim() || node.closest("label")?.textContent.trim();
  const all = (selector) => [...document.querySelectorAll(selector)].filter(isShown);
  const told = (node) => node.outerHTML.slice(0, 120);
  return [
    ...all("a, button, input, summary").filter((node) => !nameOf(node)),
    ...all("table").filter((table) => !table.caption?.textContent.trim()),
    ...all("th").filter((head) => !head.scope && head.getAttribute("role") !== "columnheader"),
    ...all("svg:not([aria-hidden])").filter((svg) => svg.getAttribute("role") !== "img" || !svg.ariaLabel),
    ...all("fieldset").filter((set) => !set.querySelector("legend")),
    ...all("[role=region], aside, nav").filter((node) => !node.ariaLabel),
  ].map(told);
}"""
"""Controls, tables, heads, drawings and regions without a name."""
