// Pictures that a reader can move: no kernel, no library, nothing from elsewhere.
//
// A page has <div class="play" data-play="norm">a sentence</div>; this script puts a picture,
// controls and the numbers in the sentence's place. Arithmetic first, then drawing, then controls,
// then what each kind of picture shows. Nothing moves by itself.
"use strict";

(() => {
  const here = document.currentScript.src;

  // --- Arithmetic: the same as swrlib.theory, where it is explained -----------------------------

  /** Norms before and after each rescaling: n <- λ n_0 + (1 − λ) n', with n' = √(n² + s²) for steps
   *  of length s at a right angle to the weight, n' = n + s along it. From step `decay` on, s is a
   *  tenth, and λ falls with the given power of that tenth. */
  function norms({ start = 1, lam, length, steps, decay = Infinity, along = false, power = 0 }) {
    const before = [], after = [];
    let n = start;
    for (let step = 0; step < steps; step += 1) {
      const share = step >= decay ? 0.1 : 1;
      const pull = lam * share ** power;
      const s = length * share;
      const updated = along ? n + s : Math.sqrt(n * n + s * s);
      n = pull * start + (1 - pull) * updated;
      before.push(updated);
      after.push(n);
    }
    return { before, after };
  }

  /** The least bound of a norm whose square grows by at most `growth` a step; or the printed one,
   *  or that of steps along the weight. */
  function bound({ start = 1, lam, growth, kind = "sharp", when = "after" }) {
    if (lam === 0) return growth ? Infinity : start;
    if (kind === "printed") return Math.sqrt(growth) / lam + start;
    if (kind === "along") return start + ((when === "after" ? 1 - lam : 1) * Math.sqrt(growth)) / lam;
    const root = Math.sqrt(start ** 2 + ((2 - lam) * growth) / lam);
    const after = (start + (1 - lam) * root) / (2 - lam);
    return when === "after" ? after : Math.sqrt(after ** 2 + growth);
  }

  /** Steps until half of a deviation from the initial norm is gone, and the λ that it takes. */
  const halfLife = (lam) => (lam === 1 ? 0 : -Math.log(2) / Math.log1p(-lam));
  const lamOf = (steps) => (steps === 0 ? 1 : -Math.expm1(-Math.log(2) / steps));

  // --- Numbers as text --------------------------------------------------------------------------

  /** Three significant digits, or as many as asked for, with commas: 0.0126, 1.37, 31,600. */
  function number(value, digits = 3) {
    if (!Number.isFinite(value)) return "∞";
    return value.toLocaleString("en-US", { maximumSignificantDigits: digits });
  }
  const exact = (value) => value.toLocaleString("en-US");
  const percent = (value) => `${(100 * value).toFixed(1)}%`;
  const count = (n, thing) => `${number(n)} ${thing}${number(n) === "1" ? "" : "s"}`;

  // --- Drawing ----------------------------------------------------------------------------------

  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "text", "rect", "clipPath", "defs"].includes(name);
    const made = svg
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** Ticks at round places: of a linear axis, or the powers of ten of a logarithmic one. */
  function ticks([low, high], log, most) {
    const found = [];
    if (log && high > 4 * low) {
      const decades = Math.log10(high / low);
      const between = decades < 1.2 ? [1, 2, 3, 5] : decades < 2.5 ? [1, 3] : [1];
      const every = Math.max(1, Math.ceil(decades / most));
      for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k += every) {
        for (const digit of between) {
          const value = digit * 10 ** k;
          if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
        }
      }
      return found;
    }
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    for (let k = Math.ceil(low / step - 1e-9) + 0; k * step <= high + 1e-9 * step; k += 1) {
      found.push(k * step);
    }
    return found;
  }

  let pictures = 0;

  /** Draw lines (`points`, `label`, `look`, `color`), horizontal `levels`, `marks` at points and
   *  `changes`, vertical lines, into an <svg> as wide as its place. */
  function draw(svg, { x, y, lines, levels = [], marks = [], changes = [], size }) {
    const width = Math.max(240, svg.parentNode.clientWidth);
    const height = size || Math.round(Math.min(330, Math.max(230, 0.42 * width)));
    const labels = [...lines, ...levels].map((line) => line.label || "");
    const longest = Math.max(0, ...labels.map((label) => label.length));
    const right = width - Math.min(0.34 * width, longest ? 7.1 * longest + 16 : 12);
    const [left, top, bottom] = [48, 30, height - 40];
    const place = (axis, from, to) => {
      const f = axis.log ? Math.log : (value) => value;
      const [low, high] = axis.range.map(f);
      return (value) => from + ((f(value) - low) / (high - low)) * (to - from);
    };
    const [px, py] = [place(x, left, right), place(y, bottom, top)];
    const parts = [];
    const text = (at, words, attributes) =>
      parts.push(element("text", { x: at[0], y: at[1], ...attributes }, words));

    for (const value of ticks(y.range, y.log, 5)) {
      const h = py(value);
      parts.push(element("line", { class: "grid", x1: left, x2: right, y1: h, y2: h }));
      text([left - 6, h + 4], (y.text || ((v) => number(v)))(value), { "text-anchor": "end" });
    }
    for (const value of ticks(x.range, x.log, Math.min(6, width / 90))) {
      text([px(value), bottom + 16], number(value), { "text-anchor": "middle" });
    }
    for (const value of changes) {
      parts.push(element("line", { class: "grid", x1: px(value), x2: px(value), y1: top, y2: bottom }));
    }
    text([left - 40, 16], y.label, { class: "name" });
    text([right, height - 6], x.label, { class: "name", "text-anchor": "end" });
    parts.push(element("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }));

    svg.id ||= `play-picture-${(pictures += 1)}`;
    const id = `${svg.id}-area`;
    const area = { x: left, y: top - 3, width: right - left + 3, height: bottom - top + 5 };
    parts.push(element("defs", {}, element("clipPath", { id }, element("rect", area))));
    const inside = element("g", { "clip-path": `url(#${id})` });
    const ends = [];
    for (const { label, level, look = "" } of levels) {
      const h = py(level);
      const line = { class: `line ${look}`, x1: left, x2: right, y1: h, y2: h };
      if (h >= top - 1) inside.append(element("line", line));
      ends.push({ label: h >= top - 1 ? label : `↑ ${label}`, h: Math.max(h, top), look });
    }
    for (const { label, points, look = "", color } of lines) {
      const path = points.map(([a, b]) => `${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join("L");
      const style = color ? { style: `--line: ${color}` } : {};
      inside.append(element("path", { class: `line ${look}`, d: `M${path}`, ...style }));
      if (label && points.length) {
        ends.push({ label, h: py(points[points.length - 1][1]), look, ...style });
      }
    }
    parts.push(inside);
    for (const { at, color } of marks) {
      const [a, b] = [px(at[0]), py(at[1])];
      if (b < top - 5 || b > bottom + 5) continue;
      const d = `M${a - 6} ${b}L${a} ${b - 6}L${a + 6} ${b}L${a} ${b + 6}Z`;
      parts.push(element("path", { class: "mark", d, style: `--line: ${color}` }));
    }
    // Names stand at the ends of their lines, and make room for each other.
    ends.sort((a, b) => a.h - b.h);
    const least = 14;
    ends.forEach((end, i) => {
      end.h = Math.max(Math.min(end.h, bottom) + 4, i ? ends[i - 1].h + least : top);
    });
    for (let i = ends.length - 1, low = bottom + 6; i >= 0; i -= 1, low -= least) {
      ends[i].h = Math.min(ends[i].h, low);
      low = ends[i].h;
    }
    for (const { label, h, look, style } of ends) {
      text([right + 8, h], label, { class: `end ${look}`, ...(style ? { style } : {}) });
    }
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren(...parts);
  }

  /** A course as points: at most some 200 of them, the last one among them. */
  function thinned(values, first, start) {
    const stride = Math.max(1, Math.floor(values.length / 200));
    const points = start === undefined ? [] : [[first - 1, start]];
    values.forEach((value, i) => {
      if (i % stride === 0 || i === values.length - 1) points.push([i + first, value]);
    });
    return points;
  }

  // --- Controls ---------------------------------------------------------------------------------

  let ids = 0;

  /** A slider with its name and its value in words; `of` turns its position into the value. */
  function slider(name, { min, max, step, value, of = (v) => v, as = (v) => number(v) }) {
    const id = `play-${(ids += 1)}`;
    const input = element("input", { type: "range", id, min, max, step, value });
    const said = element("span", { class: "play-value", "aria-hidden": "true" });
    const label = element("label", { for: id }, name);
    const control = {
      input,
      node: element("div", { class: "play-control" }, label, said, input),
      get value() { return of(Number(input.value)); },
      say() {
        said.textContent = as(control.value);
        input.setAttribute("aria-valuetext", as(control.value));
      },
    };
    return control;
  }
  const logSlider = (name, options) => slider(name, { step: 0.05, of: (v) => 10 ** v, ...options });

  /** A field for a whole number from 1 on. What is no such number leaves the last one in force. */
  function field(name, value, max) {
    const id = `play-${(ids += 1)}`;
    const input = element("input", { type: "number", id, min: 1, max, step: 1, value });
    const node = element("div", { class: "play-control" }, element("label", { for: id }, name), input);
    let last = value;
    return {
      input,
      node,
      say() {},
      get value() {
        if (input.value !== "" && input.checkValidity()) last = Number(input.value);
        return last;
      },
    };
  }

  function box(name, checked, extra = []) {
    const input = element("input", { type: "checkbox" });
    input.checked = checked;
    const node = element("label", { class: "play-box" }, input, ...extra, name);
    return { input, node, say() {}, get value() { return input.checked; } };
  }

  /** Put a picture, controls and an output into a place; `show` draws and returns what to say. */
  function stage(place, title, controls, show, groups = controls.map((control) => control.node)) {
    const said = element("output", { class: "play-said", id: `play-${(ids += 1)}` });
    said.setAttribute("aria-live", "polite");
    const svg = element("svg", { role: "img", "aria-label": title, width: "100%" });
    svg.setAttribute("aria-describedby", said.id);
    const picture = element("div", { class: "play-picture" }, svg);
    const panel = element("div", { class: "play-controls" }, ...groups);
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", title);
    place.replaceChildren(picture, said, panel);
    place.classList.add("play-ready");
    const update = () => {
      controls.forEach((control) => control.say());
      const words = show(svg);
      if (said.textContent !== words) said.textContent = words;
    };
    place.addEventListener("input", update);
    update();
    let width = picture.clientWidth;
    new ResizeObserver(() => {
      if (picture.clientWidth !== width) {
        width = picture.clientWidth;
        update();
      }
    }).observe(picture);
    return update;
  }

  const LAM = { min: -4, max: 0, value: -2 };

  // --- What each kind of picture shows ----------------------------------------------------------

  const kinds = {
    /** The front page: with SWR and without. */
    norm(place) {
      const steps = 1000;
      const lam = logSlider("λ: how strongly SWR pulls back", LAM);
      const length = logSlider("How fast the weights want to grow", { min: -2.5, max: 0, value: -1 });
      stage(place, "The norm of a layer’s weights over 1,000 optimizer steps", [lam, length], (svg) => {
        const [l, s] = [lam.value, length.value];
        const free = norms({ lam: 0, length: s, steps }).after;
        const held = norms({ lam: l, length: s, steps }).after;
        const limit = bound({ lam: l, growth: s * s });
        const [top, end] = [free[steps - 1], held[steps - 1]];
        draw(svg, {
          x: { range: [0, steps], label: "optimizer steps" },
          y: { range: [1, 1 + 1.04 * (top - 1)], label: "norm ÷ initial norm" },
          lines: [
            { label: "without SWR", points: thinned(free, 1, 1), look: "free" },
            { label: "with SWR", points: thinned(held, 1, 1), look: "held" },
          ],
          levels: [{ label: "SWR’s limit", level: limit, look: "limit" }],
        });
        return (
          `After 1,000 steps of length ${number(s)} × the initial norm, the norm is ${number(top)} × its ` +
          `initial value without SWR and ${number(end)} × with it. With λ = ${number(l)} it never ` +
          `passes ${number(limit)} ×.`
        );
      });
    },

    /** Boundedness: steps at a right angle and along the weight, and two bounds. */
    bound(place) {
      const lam = logSlider("λ", LAM);
      const growth = logSlider("B: growth of the squared norm by a step", { min: -4, max: 1, value: -1 });
      const start = slider("n₀: the initial norm", { min: 0.5, max: 20, step: 0.5, value: 6 });
      const steps = logSlider("Steps", {
        min: 2, max: 4.3, value: 3, of: (v) => Math.round(10 ** v), as: (v) => number(v),
      });
      const controls = [lam, growth, start, steps];
      stage(place, "Norms before each rescaling, and their bounds", controls, (svg) => {
        const given = { start: start.value, lam: lam.value, growth: growth.value };
        const run = { ...given, length: Math.sqrt(given.growth), steps: steps.value };
        const angle = norms(run).before;
        const along = norms({ ...run, along: true }).before;
        const free = norms({ ...run, lam: 0 }).before;
        const sharp = bound({ ...given, when: "before" });
        const after = bound(given);
        const printed = bound({ ...given, kind: "printed" });
        const last = run.steps - 1;
        const highest = Math.max(free[last], Math.min(printed, along[last] * 1.2), sharp);
        draw(svg, {
          x: { range: [0, run.steps], label: "steps" },
          y: { range: [0.94 * given.start, highest * 1.06], log: true, label: "norm before the rescaling" },
          lines: [
            { label: "without SWR", points: thinned(free, 1, given.start), look: "free" },
            { label: "right angle", points: thinned(angle, 1, given.start), look: "held" },
            { label: "along", points: thinned(along, 1, given.start), look: "along" },
          ],
          levels: [
            { label: "sharp bound", level: sharp, look: "limit" },
            { label: "printed bound", level: printed, look: "printed" },
          ],
        });
        return (
          `After ${count(run.steps, "step")} the norm is ${number(angle[last])} with steps at a right ` +
          `angle to the weight, ${number(along[last])} with steps of the same length along it (which ` +
          `break the premise), and ${number(free[last])} without SWR. ` +
          `Bounds: sharp ${number(sharp)} before the rescaling and ${number(after)} after it, ` +
          `printed ${number(printed)}.`
        );
      });
    },

    /** Norm decay: a learning rate that falls to a tenth, and three ways of λ. */
    decay(place) {
      const steps = 3000;
      const lam = logSlider("λ before the decay", { min: -3.5, max: -0.5, value: -2.2 });
      const length = logSlider("Length of a step before the decay, in initial norms", {
        min: -3.5, max: -0.5, value: -1.2,
      });
      const decay = slider("The learning rate falls to a tenth at step", {
        min: 0, max: steps, step: 100, value: 1500, as: (v) => (v === steps ? "never" : number(v)),
      });
      const along = box("Steps go along the weight, not at a right angle to it", false);
      stage(place, "A norm whose learning rate decays", [lam, length, decay, along], (svg) => {
        const given = { lam: lam.value, length: length.value, decay: decay.value, along: along.value };
        const ways = [0, 1, 2].map((power) => norms({ ...given, steps, power }).after);
        const kind = given.along ? "along" : "sharp";
        const [first, second] = [1, 0.1].map((share) =>
          bound({ lam: given.lam, growth: (share * given.length) ** 2, kind }));
        const highest = Math.max(...ways.map((way) => Math.max(...way)));
        const low = 1 - 0.04 * (highest - 1);
        draw(svg, {
          x: { range: [0, steps], label: "steps" },
          y: { range: [low, highest + 0.12 * (highest - 1)], label: "norm ÷ initial norm" },
          lines: [
            { label: "λ fixed", points: thinned(ways[0], 1, 1), look: "held" },
            { label: "λ ∝ rate", points: thinned(ways[1], 1, 1), look: "along" },
            { label: "λ ∝ rate²", points: thinned(ways[2], 1, 1), look: "squared" },
          ],
          levels: [
            { label: "limit before", level: first, look: "limit" },
            { label: "limit after", level: second, look: "limit" },
          ],
          changes: given.decay < steps ? [given.decay] : [],
        });
        const ends = ways.map((way) => number(way[steps - 1], 4));
        const limits =
          given.decay < steps
            ? `With λ fixed, its limit falls from ${number(first, 4)} to ${number(second, 4)} at the decay.`
            : `Its limit is ${number(first, 4)}.`;
        return (
          `After 3,000 steps the norm is ${ends[0]} × its initial value with λ fixed, ${ends[1]} × with ` +
          `λ in proportion to the rate, ${ends[2]} × in proportion to its square. ${limits}`
        );
      });
    },

    /** Quickstart: λ and its half-life, either way. */
    "half-life"(place) {
      const lam = logSlider("λ", { min: -6, max: 0, value: -3 });
      const half = logSlider("Half-life in steps", {
        min: -1, max: 5.84, step: 0.02, value: Math.log10(halfLife(1e-3)), as: () => number(halfLife(lam.value)),
      });
      const images = field("Training images", Number(place.dataset.images || 50000), 1e9);
      const batch = field("Batch size", Number(place.dataset.batch || 256), 1e9);
      // Whichever was moved last says what λ is; the other follows.
      let chosen = lam.value;
      const limits = ([low, high], value) => Math.min(high, Math.max(low, value));
      lam.input.addEventListener("input", () => {
        chosen = lam.value;
        half.input.value = limits([-1, 5.84], Math.log10(halfLife(chosen) || 1e-9));
      });
      half.input.addEventListener("input", () => {
        chosen = lamOf(half.value);
        lam.input.value = limits([-6, 0], Math.log10(chosen));
      });
      lam.say = half.say = () => {
        for (const [control, value] of [[lam, chosen], [half, halfLife(chosen)]]) {
          control.node.querySelector(".play-value").textContent = number(value);
          control.input.setAttribute("aria-valuetext", number(value));
        }
      };
      const controls = [lam, half, images, batch];
      stage(place, "What is left of a norm’s deviation, by epoch", controls, (svg) => {
        const perEpoch = Math.ceil(images.value / batch.value);
        const steps = halfLife(chosen);
        const [from, to] = [0.01, 1000];
        const points = Array.from({ length: 201 }, (_, i) => {
          const epoch = from * (to / from) ** (i / 200);
          return [epoch, (1 - chosen) ** (epoch * perEpoch)];
        });
        const at = steps / perEpoch;
        draw(svg, {
          x: { range: [from, to], log: true, label: "epochs" },
          y: { range: [0, 1], label: "share of the deviation that is left", text: (v) => `${number(100 * v)}%` },
          lines: [{ points, look: "held" }],
          levels: [{ label: "half", level: 0.5, look: "limit" }],
          changes: at > from && at < to ? [at] : [],
          size: 220,
        });
        return (
          `With λ = ${number(chosen)} half of a deviation from the initial norm is gone after ` +
          `${count(steps, "step")}, which is ${count(at, "epoch")} of ${count(perEpoch, "step")} ` +
          `(${exact(images.value)} images in batches of ${exact(batch.value)}).`
        );
      });
    },

    /** The experiments: which methods to show, from the records. */
    curves(place) {
      const load = () => {
        const found = (window.swrCurves || {})[place.dataset.stream];
        if (found && found.length) choose(place, found);
      };
      if (window.swrCurves) return load();
      let script = document.querySelector("script[data-curves]");
      if (!script) {
        script = element("script", { src: new URL("curves.js", here).href, "data-curves": "" });
        document.head.append(script);
      }
      script.addEventListener("load", load);
      return undefined;
    },
  };

  /** Boxes for methods, a list of settings, and an epoch to read at. */
  function choose(place, settings) {
    const id = `play-${(ids += 1)}`;
    const select = element("select", { id });
    settings.forEach((setting, i) => select.append(element("option", { value: i }, setting.name)));
    const label = element("label", { for: id }, "Setting");
    const list = element("div", { class: "play-control" }, label, select);
    const boxes = element("fieldset", { class: "play-boxes" });
    const epoch = slider("Read the values at epoch", { min: 0, max: 1, step: 1, value: 1 });
    let setting, shown;

    const fill = () => {
      setting = settings[Number(select.value)];
      const last = (method) => method.mean[method.mean.length - 1];
      const others = setting.methods.filter((m) => !["vanilla", "swr", "full-reset"].includes(m.id));
      const best = others.reduce((a, b) => (a && last(a) >= last(b) ? a : b), null);
      const first = ["vanilla", "swr", "full-reset", best && best.id];
      // SWR has the thick whole line; others have dashes, so that colour is not needed.
      let dashes = 0;
      for (const method of setting.methods) {
        method.look = method.id === "swr" ? "first" : `dash-${(dashes += 1)}`;
      }
      shown = setting.methods.map((method) => {
        const swatch = element("svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
        const style = `--line: ${method.color}`;
        swatch.append(element("path", { class: `line ${method.look}`, d: "M0 5H26", style }));
        return box(method.label, first.includes(method.id), [swatch]);
      });
      boxes.replaceChildren(element("legend", {}, "Methods"), ...shown.map((b) => b.node));
      epoch.input.max = setting.epochs.length - 1;
      epoch.input.value = setting.epochs.length - 1;
    };
    epoch.say = () => {
      const words = number(setting.epochs[Number(epoch.input.value)]);
      epoch.node.querySelector(".play-value").textContent = words;
      epoch.input.setAttribute("aria-valuetext", words);
    };
    select.addEventListener("input", fill);
    fill();
    stage(place, "Test accuracy by epoch of the methods chosen", [epoch], (svg) => {
      const { epochs, methods, low, high } = setting;
      const at = Number(epoch.input.value);
      const chosen = methods.filter((_, i) => shown[i].value);
      const end = epochs[epochs.length - 1];
      draw(svg, {
        x: { range: [0, end], label: "epoch" },
        y: { range: [low, high], label: "test accuracy, five-epoch mean", text: (v) => `${number(100 * v)}%` },
        lines: [
          { points: [[epochs[at], low], [epochs[at], high]], look: "cursor" },
          ...chosen.map(({ label: name, color, look, mean }) => ({
            label: name, color, look, points: mean.map((v, k) => [epochs[k], v]),
          })),
        ],
        marks: chosen.filter((m) => m.printed).map((m) => ({ at: [end, m.printed], color: m.color })),
        changes: setting.changes,
      });
      if (!chosen.length) return "Choose a method.";
      const values = [...chosen].sort((a, b) => b.mean[at] - a.mean[at]);
      const said = values.map((m) => `${m.label} ${percent(m.mean[at])}`).join(", ");
      const prints = values.filter((m) => m.printed).map((m) => `${m.label} ${percent(m.printed)}`);
      const printed = prints.length ? ` The paper prints for the end (◇): ${prints.join(", ")}.` : "";
      return `${setting.name}, ${setting.seeds} seeds, epoch ${number(epochs[at])}: ${said}.${printed}`;
    }, [...(settings.length > 1 ? [list] : []), boxes, epoch.node]);
  }

  function begin() {
    for (const place of document.querySelectorAll("[data-play]")) {
      const kind = kinds[place.dataset.play];
      if (kind) kind(place);
    }
  }

  window.swrPlay = { norms, bound, halfLife, lamOf, number };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
