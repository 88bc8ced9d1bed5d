// What is wrong with the page that is shown: a list of sentences. Looked for are the faults that a machine can find for certain.
const found = [];
const say = (text) => { if (!found.includes(text)) found.push(text); };
const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const words = (element) => element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);

if (!document.title.trim()) say("the page has no title");
if (!document.documentElement.lang) say("the page names no language");
for (const [selector, name] of [["h1", "h1"], ["main", "main landmark"]]) {
  const number = document.querySelectorAll(selector).length;
  if (number !== 1) say(`${number} of ${name} instead of one`);
}
let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) say(`heading "${words(heading)}" skips a level`);
  level = next;
}
const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) say(`id ${id} is there twice`);
for (const name of ["aria-labelledby", "aria-describedby"]) {
  for (const one of document.querySelectorAll(`[${name}]`)) {
    for (const id of one.getAttribute(name).split(" ")) if (!document.getElementById(id)) say(`${name} names ${id}, which is not there`);
  }
}
const named = (one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.title;
for (const field of document.querySelectorAll("input:not([type=hidden]):not([hidden]), select, textarea")) {
  if (!field.labels.length && !named(field)) say(`field ${field.name || field.id} has no label`);
}
for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) say(`picture ${image.src} has no alt`);
for (const image of document.querySelectorAll("svg[role=img], iframe")) if (!named(image)) say(`${image.tagName} has no name`);
for (const one of document.querySelectorAll("a[href], button, summary")) if (shown(one) && !words(one) && !named(one)) say("a link or button has no name");
for (const table of document.querySelectorAll("table")) if (!table.querySelector("th")) say("a table has no header cells");
for (const box of document.querySelectorAll("body *")) {
  const style = getComputedStyle(box);
  const scrolls = /auto|scroll/.test(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
  if (scrolls && box.tabIndex < 0) say(`${box.className} scrolls sideways and no key reaches it`);
}
const excess = document.documentElement.scrollWidth - window.innerWidth;
if (excess > 0) say(`the page is ${excess} pixels wider than the window`);

// Contrast of text against the nearest background colour (WCAG 2.2, 1.4.3).
const parse = (text) => { const part = text.match(/[\d.]+/g).map(Number); return part.length < 4 ? [...part, 1] : part; };
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
const light = (colour) => {
  const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const layers = [];
  for (let one = element; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !shown(element) || /^(SCRIPT|STYLE|NOSCRIPT|TITLE|OPTION)$/i.test(element.tagName)) continue;
  if (element.closest("[disabled], .visually-hidden, title")) continue;
  const style = getComputedStyle(element);
  const back = behind(element);
  const front = over(parse(element.closest("svg") ? style.fill : style.color), back);
  const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < least) say(`"${words(element)}" has a contrast of ${ratio.toFixed(2)} to its background`);
}
return found;
