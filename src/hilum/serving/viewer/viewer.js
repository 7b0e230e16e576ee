"use strict";
const scene = JSON.parse(document.getElementById("scene").textContent);
const all = (pattern) => [...document.querySelectorAll(pattern)];
const LAYOUTS = { all: 3, axial: 0, coronal: 1, sagittal: 2, render: 4 };
const SIDES = { 0: ["Axial", "R", "L", "A", "P"], 1: ["Coronal", "R", "L", "H", "F"], 2: ["Sagittal", "A", "P", "H", "F"] };
// For each plane: LPS steps of the arrow to the right, of the arrow down, and of PageUp.
const STEPS = { 0: [[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1: [[1, 0, 0], [0, 0, -1], [0, 1, 0]], 2: [[0, 1, 0], [0, 0, -1], [1, 0, 0]] };
const NOTCH = 100; // px that a wheel turns for a slice
const NARROW = 300; // px: less has no room for a plane's place beside the letters of its sides
const state = { layout: "all", window: 0, overlays: true, lps: scene.start, wheel: 0 };

const nv = new niivue.Niivue({
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  isOrientationTextVisible: false,
  multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
  multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
  multiplanarPadPixels: 4,
  crosshairWidth: 0.5,
  crosshairWidthUnit: "mm",
  crosshairGap: 8,
  crosshairColor: [1, 1, 1, 0.55],
  dragMode: niivue.DRAG_MODE.pan,
  dragAndDropEnabled: false,
  clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
  viewModeHotKey: "",
  loadingText: "",
  logLevel: "error",
});
nv.resetBriCon = () => {}; // a double click would change the window without the buttons

// NiiVue draws a voxel of an overlay as opaque or clear, but below cal_min, where its alpha grows with the square.
const TRANSLUCENT_BELOW_MIN = 1, OPAQUE_FROM = 0.5;
// Grey; in the render the darkest third, which is air in the lung window, is clear.
const CT = { R: [0, 76, 255], G: [0, 76, 255], B: [0, 76, 255], A: [0, 0, 128], I: [0, 76, 255] };
const FOR = { R: [0, 213, 213, 240], G: [0, 94, 94, 228], B: [0, 0, 0, 66], A: [0, 255, 255, 255], I: [0, 1, 128, 255] };
const AGAINST = { R: [0, 0, 0], G: [0, 114, 114], B: [0, 178, 178], A: [0, 255, 255], I: [0, 1, 255] };

function mask([r, g, b]) {
  return { R: [0, r, r], G: [0, g, g], B: [0, b, b], A: [0, 255, 255], I: [0, 128, 255] };
}

async function load() {
  nv.setRenderAzimuthElevation(160, 10); // from the front: the patient's right on the left, as in the planes
  const common = { trustCalMinMax: false, colorbarVisible: false };
  nv.addColormap("ct", CT);
  const images = [
    await niivue.NVImage.loadFromBase64({ ...common, base64: scene.scan, name: "scan.nii.gz", colormap: "ct" }),
  ];
  nv.addColormap("for", FOR);
  nv.addColormap("against", AGAINST);
  for (const [index, layer] of scene.layers.entries()) {
    const about = { ...common, base64: layer.nifti, name: `layer${index}.nii.gz`, opacity: layer.is_shown ? layer.opacity : 0 };
    if (layer.rgb) {
      nv.addColormap(`layer${index}`, mask(layer.rgb));
      images.push(await niivue.NVImage.loadFromBase64({ ...about, colormap: `layer${index}` }));
    } else {
      images.push(await niivue.NVImage.loadFromBase64({ ...about, colormap: "for", colormapNegative: "against" }));
    }
  }
  nv.volumes.push(...images.slice(0, -1)); // once: each image that is added is drawn
  nv.addVolume(images[images.length - 1]);
  for (const [index, layer] of scene.layers.entries()) { // only now: loading and adding set limits of their own
    const image = images[index + 1];
    [image.cal_min, image.cal_max] = layer.rgb ? [0, 1] : [OPAQUE_FROM * layer.limit, layer.limit];
    if (layer.rgb) continue;
    [image.cal_minNeg, image.cal_maxNeg] = [-layer.limit, -OPAQUE_FROM * layer.limit];
    image.colormapType = TRANSLUCENT_BELOW_MIN;
  }
  setWindow(0);
}

const draw = nv.drawScene.bind(nv);
nv.drawScene = (...args) => {
  const result = draw(...args);
  writeSides();
  return result;
};

const number = (value, digits) => value.toFixed(digits).replace("-", "−");

function writeSides() {
  const box = document.querySelector(".sides");
  const dpr = nv.canvas.width / nv.canvas.clientWidth;
  const [x, y, z] = state.lps;
  const where = { 0: `z ${number(z, 1)}`, 1: `y ${number(y, 1)}`, 2: `x ${number(x, 1)}` };
  const text = nv.screenSlices
    .map((tile) => {
      const [left, top, width, height] = tile.leftTopWidthHeight.map((n) => n / dpr);
      const place = `style="left:${left}px;top:${top}px;width:${width}px;height:${height}px"`;
      if (!(tile.axCorSag in SIDES)) return `<div class="render" ${place}><span>Render</span></div>`;
      const [name, onLeft, onRight, onTop, below] = SIDES[tile.axCorSag];
      const title = width < NARROW ? name : `${name}, ${where[tile.axCorSag]} mm`;
      return `<div ${place}><span>${title}</span><b class="R">${onLeft}</b><b class="L">${onRight}</b><b class="T">${onTop}</b><b class="B">${below}</b></div>`;
    })
    .join("");
  if (box.dataset.text !== text) {
    box.dataset.text = text;
    box.innerHTML = text;
  }
}

function goTo(lps) {
  state.lps = lps.map((mm, axis) => Math.min(Math.max(mm, scene.low[axis]), scene.high[axis]));
  const [x, y, z] = state.lps;
  nv.scene.crosshairPos = nv.mm2frac([-x, -y, z]);
  nv.createOnLocationChange();
  nv.drawScene();
}

function readOut(location) {
  const [x, y, z] = location.mm;
  state.lps = [-x, -y, z];
  const hu = location.values[0].value;
  document.getElementById("readout").textContent =
    `LPS ${state.lps.map((mm) => number(mm, 1)).join("  ")} mm, ${number(hu, 0)} HU`;
  writeSides();
}

function press(pattern, chosen) {
  all(pattern).forEach((button) => button.setAttribute("aria-pressed", String(chosen(button))));
}

function setWindow(index) {
  state.window = index;
  [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = scene.windows[index].range;
  nv.updateGLVolume();
  press("[data-window]", (button) => Number(button.dataset.window) === index);
}

function setLayout(name) {
  state.layout = name;
  nv.setSliceType(LAYOUTS[name]);
  press("[data-layout]", (button) => button.dataset.layout === name);
}

function setOverlays() {
  for (const box of all("[data-layer]")) {
    const index = Number(box.dataset.layer);
    const opacity = Number(document.querySelector(`[data-opacity="${index}"]`).value);
    nv.volumes[index].opacity = state.overlays && box.checked ? opacity : 0;
  }
  nv.updateGLVolume();
  document.getElementById("overlays").setAttribute("aria-pressed", String(state.overlays));
}

function background() {
  const hex = getComputedStyle(document.documentElement).getPropertyValue("--stage").trim().slice(1);
  const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
  nv.opts.backColor = [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16) / 255).concat(1);
  nv.drawScene();
}

function move(event, key) {
  const [right, down, next] = STEPS[LAYOUTS[state.layout]] ?? STEPS[0];
  const moves = { ArrowRight: [right, 1], ArrowLeft: [right, -1], ArrowDown: [down, 1], ArrowUp: [down, -1], PageUp: [next, 1], PageDown: [next, -1] };
  if (!(key in moves)) return false;
  const [along, sign] = moves[key];
  const steps = sign * (event.shiftKey ? 10 : 1);
  goTo(state.lps.map((mm, axis) => mm + along[axis] * steps * scene.spacing[axis]));
  return true;
}

// NiiVue zooms where the right button pans; only with Ctrl that is left to it.
function onWheel(event) {
  if (event.ctrlKey || event.metaKey) return;
  const box = nv.canvas.getBoundingClientRect();
  const dpr = nv.canvas.width / nv.canvas.clientWidth;
  const [x, y] = [(event.clientX - box.left) * dpr, (event.clientY - box.top) * dpr];
  const tile = nv.screenSlices.find(({ leftTopWidthHeight: [left, top, width, height] }) => x >= left && x < left + width && y >= top && y < top + height);
  if (!tile || !(tile.axCorSag in STEPS)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  state.wheel -= event.deltaY * (event.deltaMode ? NOTCH / 3 : 1); // three lines are a notch
  const steps = Math.trunc(state.wheel / NOTCH);
  state.wheel -= steps * NOTCH;
  const next = STEPS[tile.axCorSag][2];
  if (steps) goTo(state.lps.map((mm, axis) => mm + next[axis] * steps * scene.spacing[axis]));
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || document.getElementById("help").open) return;
  let done = event.target === nv.canvas && move(event, event.key); // elsewhere they scroll the page
  if (["1", "2", "3"].includes(event.key)) { setWindow(Number(event.key) - 1); done = true; }
  if (event.key === "o") { document.getElementById("overlays").click(); done = true; }
  if (event.key === "v") { const names = Object.keys(LAYOUTS); setLayout(names[(names.indexOf(state.layout) + 1) % names.length]); done = true; }
  if (event.key === "?") { document.getElementById("help").showModal(); done = true; }
  if (done) event.preventDefault();
  if (done || event.target === nv.canvas) event.stopPropagation(); // NiiVue has keys of its own
}

async function begin() {
  document.documentElement.classList.toggle("framed", self !== top); // the page around it has a title
  document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());
  nv.onLocationChange = readOut;
  await nv.attachToCanvas(document.getElementById("planes"));
  await load();
  setLayout("all");
  background();
  goTo(scene.start);
  document.querySelector(".wait").remove();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", background);
  all("[data-window]").forEach((button) => button.addEventListener("click", () => setWindow(Number(button.dataset.window))));
  all("[data-layout]").forEach((button) => button.addEventListener("click", () => setLayout(button.dataset.layout)));
  all("[data-lps]").forEach((button) => button.addEventListener("click", () => goTo(button.dataset.lps.split(" ").map(Number))));
  all("[data-layer]").forEach((box) => box.addEventListener("change", setOverlays));
  all("[data-opacity]").forEach((slider) => slider.addEventListener("input", setOverlays));
  document.getElementById("overlays").addEventListener("click", () => { state.overlays = !state.overlays; setOverlays(); });
  document.addEventListener("keydown", onKey, true);
  nv.canvas.addEventListener("wheel", onWheel, { capture: true, passive: false });
  nv.canvas.focus({ preventScroll: true });
  document.body.dataset.ready = "true";
}

begin().catch((error) => {
  const wait = document.querySelector(".wait");
  if (wait) wait.textContent = "The scan cannot be drawn: this needs a browser with WebGL 2. The findings and figures on this page stand all the same.";
  console.error(error);
});
