// The viewer: one image with its ground truth, predictions and errors.
"use strict";

report.Viewer = (() => {
  const { ref, shallowRef, computed, watch, onMounted, onBeforeUnmount } = Vue;
  const { state, order, predictions, pair, delta, categories, imageHref } = report.store;
  const { PredictionChoice, Delta } = report.parts;
  const { Pane, newView, showAll, showBox, zoomAt, move, STEP } = report.viewerPane;
  const { LAYERS, Tooltip, LayerPanel, SegmentList } = report.viewerParts;
  const { read, describePixel } = report.viewerImage;
  const { paintSegments, paintErrors, paintOutline } = report.maps;
  const format = report.format;
  const NOTHING = { width: 1, height: 1, boxes: new Map() };

  // The image of the address, the images before and after it, and its decoded content `shown`, which is null until it is read.
  function useImage(onShown) {
    const shown = shallowRef(null);
    const failure = ref("");
    const loading = ref(false);
    const info = computed(() => state.index.images[state.image]);
    const place = computed(() => order.value.indexOf(state.image));
    const neighbor = (step) => {
      if (place.value >= 0) return order.value[place.value + step] ?? -1;
      return state.index.images[state.image + step] ? state.image + step : -1; // the filter hides this image
    };
    const go = (step) => {
      if (neighbor(step) >= 0) location.hash = imageHref(neighbor(step));
    };
    const loadAhead = () => {
      const near = [neighbor(1), neighbor(-1)].filter((i) => i >= 0);
      for (const i of near) report.data.loadImage(state.index.images[i].id).catch(() => {}); // an error is told when it is opened
    };

    async function show() {
      const wanted = state.image;
      if (wanted < 0) return;
      const fail = (error) => wanted === state.image && (failure.value = error.message);
      loading.value = true;
      failure.value = "";
      try {
        const image = await read(info.value.id, categories.value, state.prediction);
        if (wanted !== state.image) return;
        shown.value = image;
        onShown(image);
        image.others.then(loadAhead, fail);
      } catch (error) {
        if (wanted === state.image) shown.value = null;
        fail(error);
      }
      if (wanted === state.image) loading.value = false;
    }
    watch(() => state.image, show, { immediate: true });
    return { shown, failure, loading, info, place, neighbor, go };
  }

  // The segment that was chosen in the list or by the address, the one under the pointer, and the outline of either.
  function useSelection(shown, view) {
    const pointer = ref(null); // {x, y, clientX, clientY, onTruth: whether the pane shows the ground truth}
    const selected = ref(null); // {side, n}
    const sideOf = (side) => (side === "gt" ? shown.value?.truth : shown.value?.predictions[state.prediction]);
    const select = (segment) => {
      selected.value = segment;
      const box = segment && sideOf(segment.side)?.map.boxes.get(segment.n);
      if (box) showBox(view, box);
    };
    const choose = (entry) => select({ side: entry.side, n: entry.segment.n });
    const readAddress = () => {
      const { side, segment } = state.query;
      select(side && segment ? { side, n: Number(segment) } : null);
    };
    watch(
      () => state.prediction,
      () => selected.value?.side === "pred" && (selected.value = null),
      { flush: "sync" },
    );

    // "gt3" or "pred5". Of the segments under the pointer, the predicted one; where it is missed, the one of the ground truth.
    const outlined = computed(() => {
      const { x, y, onTruth } = pointer.value ?? {};
      const pixel = pointer.value && shown.value && describePixel(shown.value, state.prediction, x, y);
      const first = pixel && (onTruth || pixel.code === 2 ? pixel.truth : pixel.prediction);
      const entry = first ?? pixel?.prediction ?? pixel?.truth;
      if (entry) return `${entry.side}${entry.segment.n}`;
      return selected.value ? `${selected.value.side}${selected.value.n}` : "";
    });
    const outline = computed(() => {
      const [, side, n] = outlined.value.match(/^(gt|pred)(\d+)$/) ?? [];
      const map = side && sideOf(side)?.map;
      return (canvas) => paintOutline(canvas, map ?? NOTHING, Number(n));
    });
    return { pointer, selected, choose, readAddress, outline };
  }

  // Layers of each pane. The functions change only when what they paint changes, so fading repaints nothing.
  function usePanes(shown) {
    const paints = computed(() => {
      const image = shown.value;
      if (!image) return null;
      const segments = (side) => side && ((canvas) => paintSegments(canvas, side.map, side.color));
      const kinds = [...state.shownKinds];
      return {
        truth: segments(image.truth),
        predictions: image.predictions.map(segments),
        errors: image.predictions.map((side) => side?.errors && ((canvas) => paintErrors(canvas, side.errors, kinds))),
      };
    });
    const sources = (p) => ({
      photo: shown.value?.photo && { src: shown.value.photo },
      truth: paints.value?.truth && { paint: paints.value.truth },
      prediction: paints.value?.predictions[p] && { paint: paints.value.predictions[p] },
      errors: paints.value?.errors[p] && { paint: paints.value.errors[p] },
    });
    const layersOf = (p, isOn) => {
      const found = sources(p);
      const shownLayers = LAYERS.filter(({ key }) => found[key] && isOn(key));
      return shownLayers.map(({ key }) => ({ key, opacity: state.layers[key].opacity, ...found[key] }));
    };
    const available = computed(() => sources(state.prediction));
    const panes = computed(() => {
      if (!paints.value) return [];
      const isOn = (key) => state.layers[key].on;
      if (!state.sideBySide) return [{ key: "one", layers: layersOf(state.prediction, isOn) }];
      const truth = { key: "truth", title: "Ground truth", onTruth: true };
      truth.layers = layersOf(0, (key) => key === "truth" || (key === "photo" && isOn(key)));
      const others = predictions.value.map(({ name }, p) => {
        return { key: p, title: name, prediction: p, layers: layersOf(p, (key) => key !== "truth" && isOn(key)) };
      });
      return paints.value.truth ? [truth, ...others] : others;
    });
    return { available, panes };
  }

  // Calls the action of a pressed key, except while it edits a text or moves a slider.
  function useKeys(actions) {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches?.("input:not([type=checkbox]), select, textarea")) return;
      const action = actions[`${event.shiftKey && event.key.startsWith("Arrow") ? "shift+" : ""}${event.key}`];
      if (!action) return;
      event.preventDefault();
      action();
    };
    onMounted(() => addEventListener("keydown", press));
    onBeforeUnmount(() => removeEventListener("keydown", press));
  }

  const setup = () => {
    const view = newView();
    const image = useImage(({ width, height }) => {
      showAll(view, width, height);
      selection.pointer.value = null;
      selection.readAddress();
    });
    const { shown, info, go } = image;
    const selection = useSelection(shown, view);
    const { available, panes } = usePanes(shown);
    watch(
      () => state.query,
      () => shown.value?.id === info.value?.id && selection.readAddress(),
    );

    const point = (event, pane) => {
      if (pane.prediction !== undefined) state.prediction = pane.prediction;
      selection.pointer.value = { ...event, onTruth: pane.onTruth };
    };
    const errors = computed(() => shown.value?.predictions[state.prediction]?.errors ?? null);

    const zoom = { in: () => zoomAt(view, STEP), out: () => zoomAt(view, 1 / STEP), all: () => showAll(view) };
    const pan = (dx, dy) =>
      move(view, view.x + (dx * view.width) / (8 * view.zoom), view.y + (dy * view.height) / (8 * view.zoom));
    const toggle = (layer) => (layer.on = !layer.on);
    useKeys({
      ArrowRight: () => go(1),
      ArrowLeft: () => go(-1),
      "shift+ArrowRight": () => pan(1, 0),
      "shift+ArrowLeft": () => pan(-1, 0),
      "shift+ArrowUp": () => pan(0, -1),
      "shift+ArrowDown": () => pan(0, 1),
      "+": zoom.in,
      "=": zoom.in,
      "-": zoom.out,
      0: zoom.all,
      ...Object.fromEntries(LAYERS.map(({ key }, i) => [i + 1, () => toggle(state.layers[key])])),
      p: () => (state.prediction = (state.prediction + 1) % Math.max(1, predictions.value.length)),
      s: () => (state.sideBySide = !state.sideBySide),
      Escape: () => (location.hash = "#/images"),
    });
    return {
      ...image,
      ...selection,
      state,
      order,
      predictions,
      pair,
      delta,
      format,
      view,
      zoom,
      panes,
      available,
      errors,
      point,
    };
  };

  return {
    components: { Pane, Tooltip, LayerPanel, SegmentList, PredictionChoice, Delta },
    setup,
    template: `
      <section class="viewer" aria-labelledby="viewer-title">
        <header class="section-head">
          <a class="back" href="#/images">← Images</a>
          <h2 id="viewer-title" class="file" aria-live="polite">{{ info.name }}</h2>
          <span class="steps">
            <button type="button" :disabled="neighbor(-1) < 0" aria-label="Previous image" title="Previous image (←)"
              @click="go(-1)">‹</button>
            <span class="hint" v-if="place >= 0">{{ format.count(place + 1) }} of {{ format.count(order.length) }}</span>
            <button type="button" :disabled="neighbor(1) < 0" aria-label="Next image" title="Next image (→)" @click="go(1)">›</button>
          </span>
        </header>
        <div class="viewer-scores" v-if="info.pq?.some(format.known)">
          <button v-for="(p, k) in predictions" :key="k" type="button" class="score-tile" :aria-pressed="k === state.prediction"
            @click="state.prediction = k">
            <span>{{ p.name }}</span><b>PQ {{ format.percent(info.pq[k]) }}</b>
            <small>{{ format.count(info.tp?.[k]) }} TP · <span class="text-fp">{{ format.count(info.fp?.[k]) }} FP</span> ·
              <span class="text-fn">{{ format.count(info.fn?.[k]) }} FN</span></small>
          </button>
          <Delta v-if="pair" :value="delta(info)">Δ </Delta>
        </div>
        <PredictionChoice v-else></PredictionChoice>
        <p v-for="(text, i) in info.problems ?? []" :key="i" class="problem">{{ text }}</p>
        <p v-if="failure" class="card problem" role="alert">{{ failure }}</p>
        <div v-else class="viewer-layout" :class="{ side: state.sideBySide }">
          <div class="stage" :class="{ loading }">
            <div class="panes" :style="{ '--panes': panes.length }">
              <Pane v-for="pane in panes" :key="pane.key" :view="view" :layers="pane.layers" :outline="outline" :title="pane.title"
                :label="info.name" @point="point($event, pane)" @leave="pointer = null"></Pane>
            </div>
            <div class="zoom" role="group" aria-label="Zoom">
              <button type="button" aria-label="Zoom in" title="Zoom in (+)" @click="zoom.in">+</button>
              <button type="button" aria-label="Zoom out" title="Zoom out (−)" @click="zoom.out">−</button>
              <button type="button" aria-label="Show the whole image" title="Whole image (0)" @click="zoom.all">⤢</button>
              <span class="hint">{{ Math.round(100 * view.zoom) }}%</span>
              <label class="check" v-if="predictions.length"><input type="checkbox" v-model="state.sideBySide"> side by side</label>
            </div>
          </div>
          <aside class="panel" aria-label="Layers and segments">
            <LayerPanel :available="available" :errors="errors"></LayerPanel>
            <SegmentList :image="shown" :selected="selected" @choose="choose"></SegmentList>
            <details class="keys"><summary>Keys</summary>
              <p class="hint">← → image · + − 0 zoom · Shift + arrows move · 1–4 layers · P prediction · S side by side · Esc list</p></details>
          </aside>
        </div>
        <Tooltip v-if="pointer && shown" :image="shown" :pointer="pointer"></Tooltip>
      </section>`,
  };
})();
