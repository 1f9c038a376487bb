"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const grid = document.getElementById("crops");

  // Tables: a click on a heading sorts by its column, numbers by value; unknown values stay below.
  const keyOf = (row, place) => {
    const cell = row.cells[place];
    return cell.dataset.key ?? cell.textContent.trim();
  };
  const compare = (a, b, numeric) => {
    if (!numeric) return a.localeCompare(b);
    const [x, y] = [parseFloat(a), parseFloat(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return 0;
    return x - y;
  };
  const sortTable = (head) => {
    const body = head.closest("table").tBodies[0];
    const numeric = head.classList.contains("num");
    const next = head.getAttribute("aria-sort") === (numeric ? "descending" : "ascending");
    const order = next === numeric ? 1 : -1;
    all("th", head.parentNode).forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
    const place = head.cellIndex;
    const rows = [...body.rows];
    const known = rows.filter((row) => !numeric || !Number.isNaN(parseFloat(keyOf(row, place))));
    const unknown = rows.filter((row) => !known.includes(row));
    known.sort((a, b) => order * compare(keyOf(a, place), keyOf(b, place), numeric));
    body.append(...known, ...unknown);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (button) sortTable(button.parentNode);
  });
  addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
  if (!grid) return;

  // Crops: filters, order, keyboard. The address after # holds the filters, so that a view can be linked.
  const crops = all("figure.crop", grid);
  const form = document.getElementById("filters");
  const count = document.getElementById("shown");
  const view = document.getElementById("view");
  const FIELDS = ["type", "pair", "true", "pred", "min", "max", "sort"];
  const START = { type: "", pair: "", true: "", pred: "", min: "", max: "", sort: "given" };
  let shown = crops;
  let current = 0;

  const pairOf = (crop) => `${crop.dataset.true}>${crop.dataset.pred}`;
  const number = (text, without) => (text === "" || Number.isNaN(Number(text)) ? without : Number(text));
  const confOf = (crop) => number(crop.dataset.conf ?? "", -1);
  const matches = (crop, wish) => {
    const conf = confOf(crop);
    const bounded = wish.min !== "" || wish.max !== "";
    return (!wish.type || crop.dataset.type === wish.type)
      && (!wish.pair || (crop.dataset.type === "misclassified" && pairOf(crop) === wish.pair))
      && (!wish.true || crop.dataset.true === wish.true)
      && (!wish.pred || crop.dataset.pred === wish.pred)
      && (!bounded || (conf >= number(wish.min, 0) && conf <= number(wish.max, 1)));
  };
  const ORDERS = {
    given: (a, b) => a.dataset.place - b.dataset.place,
    high: (a, b) => confOf(b) - confOf(a),
    low: (a, b) => confOf(a) - confOf(b),
    iou: (a, b) => number(b.dataset.iou ?? "", -1) - number(a.dataset.iou ?? "", -1),
    image: (a, b) => a.dataset.image.localeCompare(b.dataset.image),
  };
  const wishes = () => Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));
  const apply = () => {
    const wish = wishes();
    shown = crops.filter((crop) => matches(crop, wish)).sort(ORDERS[wish.sort] ?? ORDERS.given);
    const chosen = new Set(shown);
    crops.forEach((crop) => { crop.hidden = !chosen.has(crop); crop.tabIndex = -1; });
    grid.append(...shown);
    current = 0;
    if (shown.length) shown[0].tabIndex = 0;
    count.textContent = `${shown.length} of ${crops.length} crops`;
  };
  const remember = () => {
    const wish = wishes();
    const parts = FIELDS.filter((name) => wish[name] !== START[name])
      .map((name) => `${name}=${encodeURIComponent(wish[name])}`);
    history.replaceState(null, "", parts.length ? `#${parts.join("&")}` : "#gallery");
  };
  const recall = () => {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return;
    const wish = new URLSearchParams(hash);
    FIELDS.forEach((name) => { form.elements[name].value = wish.get(name) ?? START[name]; });
    apply();
    document.getElementById("gallery").scrollIntoView({ behavior: "auto" });
  };
  const setFilters = (wish) => {
    FIELDS.forEach((name) => { form.elements[name].value = wish[name] ?? START[name]; });
    apply();
    remember();
  };
  form.addEventListener("input", () => { apply(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); setFilters({}); });
  addEventListener("hashchange", recall);

  let seen = { items: [], place: 0 };  // what the enlarged view steps through
  const show = (place) => {
    seen.place = Math.min(Math.max(place, 0), seen.items.length - 1);
    const crop = seen.items[seen.place];
    const copy = crop.querySelector(".pic").cloneNode(true);
    view.querySelector("figure").replaceChildren(copy, crop.querySelector("figcaption").cloneNode(true));
    document.getElementById("place").textContent = `${seen.place + 1} of ${seen.items.length}`;
    if (!view.open) {
      view.showModal();
      view.querySelector("[value=next]").focus();
    }
  };
  const enlarge = (crop) => {
    seen = { items: grid.contains(crop) ? shown : all("figure.crop", crop.parentNode), place: 0 };
    show(seen.items.indexOf(crop));
  };
  const go = (place) => {
    if (view.open) { show(place); return; }
    if (!shown.length) return;
    shown[current].tabIndex = -1;
    current = Math.min(Math.max(place, 0), shown.length - 1);
    shown[current].tabIndex = 0;
    shown[current].focus({ preventScroll: true });
    shown[current].scrollIntoView({ block: "nearest", behavior: "auto" });
  };
  const here = () => (view.open ? seen.place : current);
  const inGrid = () => grid.contains(document.activeElement) || view.open;
  const nextPair = (step) => {
    const options = [...form.elements.pair.options].map((option) => option.value);
    const place = options.indexOf(form.elements.pair.value);
    setFilters({ pair: options[(place + step + options.length) % options.length] });
    document.getElementById("gallery").scrollIntoView({ behavior: "auto" });
    go(0);
  };
  const onKey = {
    n: () => go(inGrid() ? here() + 1 : here()),
    p: () => go(here() - 1),
    ArrowRight: () => inGrid() && go(here() + 1),
    ArrowLeft: () => inGrid() && go(here() - 1),
    Home: () => inGrid() && go(0),
    End: () => inGrid() && go((view.open ? seen.items : shown).length - 1),
    Enter: () => !view.open && grid.contains(document.activeElement) && enlarge(shown[current]),
    " ": () => !view.open && grid.contains(document.activeElement) && enlarge(shown[current]),
    "]": () => !view.open && nextPair(1),
    "[": () => !view.open && nextPair(-1),
    f: () => !view.open && form.elements.type.focus(),
    r: () => !view.open && setFilters({}),
  };
  const enabled = document.getElementById("shortcuts");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(onKey, event.key)) return;
    const { target, key } = event;
    if (target.matches("select, textarea, input") || (key.length === 1 && !enabled.checked)) return;
    if ((key === "Enter" || key === " ") && target.closest("button, a, summary")) return;
    if (onKey[key]() !== false) event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    const open = event.target.closest("[data-show]");
    if (open) {
      setFilters(Object.fromEntries(new URLSearchParams(open.dataset.show)));
      document.getElementById("gallery").scrollIntoView();
      go(0);
      return;
    }
    const crop = event.target.closest("figure.crop");
    if (!crop || event.target.closest("a")) return;
    if (grid.contains(crop)) go(shown.indexOf(crop));
    enlarge(crop);
  });
  view.addEventListener("click", (event) => {
    const action = event.target.closest("button")?.value ?? (event.target === view ? "close" : "");
    if (action === "close") view.close();
    if (action === "next") go(seen.place + 1);
    if (action === "previous") go(seen.place - 1);
  });
  view.addEventListener("close", () => { if (seen.items === shown) go(seen.place); });
  apply();
  recall();
})();
