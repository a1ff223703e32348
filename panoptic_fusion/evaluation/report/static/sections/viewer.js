// The viewer: one image with its ground truth, predictions and errors.
"use strict";

report.Viewer = (() => {
  const { ref, shallowRef, reactive, computed, watch, onMounted, onBeforeUnmount } = Vue;
  const { state, order, predictions, pair, delta, categories, imageHref } = report.store;
  const { Swatch, KindBadge, PredictionChoice } = report.parts;
  const { Pane, newView, showAll, showBox, zoomAt, move, STEP } = report.viewerPane;
  const { read, describeTruth, describePrediction, describePixel, listSegments } = report.viewerImage;
  const { KINDS, kindOfCode } = report.measures;
  const { paintSegments, paintErrors, paintOutline } = report.maps;
  const format = report.format;

  const LAYERS = [["photo", "Photo"], ["truth", "Ground truth"], ["prediction", "Prediction"], ["errors", "Errors"]];

  // Describes one segment in the tooltip and in the list.
  const SegmentLine = {
    components: { Swatch, KindBadge },
    props: { entry: Object },
    setup: (props) => ({ categories, format, category: computed(() => categories.value[props.entry.segment.category]) }),
    template: `
      <span class="segment-line"><Swatch :color="category?.color"></Swatch><b class="class">{{ category?.name ?? 'unknown class' }}</b>
        <span v-if="format.known(entry.segment.score)" class="figure">score {{ format.fraction(entry.segment.score) }}</span>
        <span v-if="format.known(entry.iou)" class="figure">IoU {{ format.fraction(entry.iou) }}</span>
        <KindBadge v-if="entry.kind" :kind="entry.kind"></KindBadge></span>`,
  };

  const setup = () => {
    const shown = shallowRef(null); // decoded image
    const failure = ref("");
    const loading = ref(false);
    const view = newView();
    const pointer = ref(null); // {x, y, clientX, clientY}
    const selected = ref(null); // {side, n}
    const onlyWrong = ref(true);

    const info = computed(() => state.index.images[state.image]);
    const place = computed(() => order.value.indexOf(state.image));
    const neighbor = (step) => {
      const list = place.value < 0 ? state.index.images.map((_, i) => i) : order.value;
      return list[(place.value < 0 ? state.image : place.value) + step] ?? -1;
    };
    const go = (step) => {
      const next = neighbor(step);
      if (next >= 0) location.hash = imageHref(next);
    };

    async function show() {
      const wanted = state.image;
      if (wanted < 0) return;
      loading.value = true;
      failure.value = "";
      pointer.value = null;
      try {
        const image = await read(info.value.id, categories.value, state.prediction);
        if (wanted !== state.image) return;
        image.others.catch((error) => wanted === state.image && (failure.value = error.message));
        showAll(view, image.width, image.height);
        shown.value = image;
        select();
        for (const step of [1, -1]) if (neighbor(step) >= 0) report.data.loadImage(state.index.images[neighbor(step)].id).catch(() => {});
      } catch (error) {
        if (wanted !== state.image) return;
        shown.value = null;
        failure.value = error.message;
      }
      loading.value = false;
    }
    // The segment that the address names.
    function select() {
      const { side, segment } = state.query;
      selected.value = side && segment ? { side, n: Number(segment) } : null;
      if (selected.value) showSegment(selected.value);
    }
    watch(() => state.image, show, { immediate: true });
    watch(() => state.query, () => shown.value?.id === info.value?.id && select());

    const sideOf = (side) => (side === "gt" ? shown.value?.truth : shown.value?.predictions[state.prediction]);
    function showSegment({ side, n }) {
      const box = sideOf(side)?.map.boxes.get(n);
      if (box) showBox(view, box);
    }
    const choose = (entry) => {
      selected.value = { side: entry.side, n: entry.segment.n };
      showSegment(selected.value);
    };
    watch(() => state.prediction, () => selected.value?.side === "pred" && (selected.value = null), { flush: "sync" });

    // What is under the pointer, and whose outline is drawn: the predicted segment, or the ground truth's where nothing fits.
    const pixel = computed(() => pointer.value && shown.value && describePixel(shown.value, state.prediction, pointer.value.x, pointer.value.y));
    const focus = computed(() => {
      if (!pixel.value) return selected.value;
      const { truth, prediction, code } = pixel.value;
      const entry = (code === 2 || pointer.value.onTruth ? truth : prediction) ?? prediction ?? truth;
      return entry ? { side: entry.side, n: entry.segment.n } : selected.value;
    });
    const focusKey = computed(() => (focus.value ? `${focus.value.side}${focus.value.n}` : ""));
    const outline = computed(() => {
      const [side, n] = [focusKey.value.replace(/\d+$/, ""), Number(focusKey.value.match(/\d+$/)?.[0] ?? 0)];
      const map = sideOf(side)?.map;
      return (canvas) => paintOutline(canvas, map ?? { width: 1, height: 1, boxes: new Map() }, n);
    });
    const tooltipStyle = computed(() => {
      if (!pointer.value) return {};
      // Away from the pointer, on the side that has more room.
      const { clientX: x, clientY: y } = pointer.value;
      const { clientWidth: width, clientHeight: height } = document.documentElement;
      return {
        ...(x > width / 2 ? { right: `${width - x + 14}px` } : { left: `${x + 14}px` }),
        ...(y > height / 2 ? { bottom: `${height - y + 14}px` } : { top: `${y + 14}px` }),
      };
    });

    // Layers of each pane. The functions change only when what they paint changes, so fading repaints nothing.
    const paints = computed(() => {
      const image = shown.value;
      if (!image) return null;
      const segments = (side) => side && ((canvas) => paintSegments(canvas, side.map, side.color));
      const hidden = [...state.hiddenKinds];
      return {
        truth: segments(image.truth),
        predictions: image.predictions.map(segments),
        errors: image.predictions.map((side) => side?.errors && ((canvas) => paintErrors(canvas, side.errors, hidden))),
      };
    });
    const available = computed(() => ({
      photo: Boolean(shown.value?.photo), truth: Boolean(paints.value?.truth),
      prediction: Boolean(paints.value?.predictions[state.prediction]), errors: Boolean(paints.value?.errors[state.prediction]),
    }));
    function layersOf(p, keys, forced) {
      const sources = {
        photo: { src: shown.value.photo }, truth: { paint: paints.value.truth },
        prediction: { paint: paints.value.predictions[p] }, errors: { paint: paints.value.errors[p] },
      };
      return keys.filter((key) => (state.layers[key].on || key === forced) && (sources[key].src || sources[key].paint))
        .map((key) => ({ key, opacity: state.layers[key].opacity, ...sources[key] }));
    }
    const panes = computed(() => {
      if (!paints.value) return [];
      if (!state.sideBySide) return [{ key: "one", layers: layersOf(state.prediction, LAYERS.map(([key]) => key)) }];
      const truth = { key: "truth", title: "Ground truth", layers: layersOf(0, ["photo", "truth"], "truth"), onTruth: true };
      const others = predictions.value.map((p, i) => ({ key: i, title: p.name, prediction: i, layers: layersOf(i, ["photo", "prediction", "errors"]) }));
      return paints.value.truth ? [truth, ...others] : others;
    });
    const point = (event, pane) => {
      if (pane.prediction !== undefined) state.prediction = pane.prediction;
      pointer.value = { ...event, onTruth: pane.onTruth };
    };

    const total = computed(() => (shown.value ? shown.value.width * shown.value.height : 1));
    const kinds = computed(() => {
      const counts = shown.value?.predictions[state.prediction]?.errors?.counts ?? [];
      return KINDS.map((kind) => ({ ...kind, share: (100 * (counts[kind.code] ?? 0)) / total.value }));
    });
    const toggleKind = (code) => {
      const at = state.hiddenKinds.indexOf(code);
      if (at < 0) state.hiddenKinds.push(code);
      else state.hiddenKinds.splice(at, 1);
    };
    const segments = computed(() => (shown.value ? listSegments(shown.value, state.prediction) : []));
    const listed = computed(() => (onlyWrong.value && predictions.value.length ? segments.value.filter((entry) => entry.wrong) : segments.value));
    const wrongCount = computed(() => segments.value.filter((entry) => entry.wrong).length);
    const canBeWrong = computed(() => segments.value.some((entry) => entry.kind && entry.kind !== "crowd"));
    watch(canBeWrong, (can) => can || (onlyWrong.value = false));

    const nextPrediction = () => predictions.value.length && (state.prediction = (state.prediction + 1) % predictions.value.length);
    const pan = (dx, dy) => move(view, view.x + (dx * view.width) / (8 * view.zoom), view.y + (dy * view.height) / (8 * view.zoom));
    const keys = {
      ArrowRight: () => go(1), ArrowLeft: () => go(-1),
      "shift+ArrowRight": () => pan(1, 0), "shift+ArrowLeft": () => pan(-1, 0), "shift+ArrowUp": () => pan(0, -1), "shift+ArrowDown": () => pan(0, 1),
      "+": () => zoomAt(view, STEP), "=": () => zoomAt(view, STEP), "-": () => zoomAt(view, 1 / STEP), 0: () => showAll(view),
      p: nextPrediction, s: () => (state.sideBySide = !state.sideBySide), Escape: () => (location.hash = "#/images"),
    };
    LAYERS.forEach(([key], i) => (keys[i + 1] = () => (state.layers[key].on = !state.layers[key].on)));
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches?.("input:not([type=checkbox]), select, textarea")) return;
      const action = keys[`${event.shiftKey && event.key.startsWith("Arrow") ? "shift+" : ""}${event.key}`];
      if (!action) return;
      event.preventDefault();
      action();
    };
    onMounted(() => addEventListener("keydown", press));
    onBeforeUnmount(() => removeEventListener("keydown", press));

    const zoom = { in: () => zoomAt(view, STEP), out: () => zoomAt(view, 1 / STEP), all: () => showAll(view) };
    return {
      state, info, shown, failure, loading, view, pointer, selected, onlyWrong, place, order, go, neighbor, choose, pixel, outline, tooltipStyle, panes, point,
      available, kinds, toggleKind, listed, segments, wrongCount, canBeWrong, predictions, pair, delta, zoom, kindOfCode, format, LAYERS,
    };
  };

  return {
    components: { Pane, SegmentLine, Swatch, KindBadge, PredictionChoice },
    setup,
    template: `
      <section class="viewer" aria-labelledby="viewer-title">
        <header class="section-head">
          <a class="back" href="#/images">← Images</a>
          <h2 id="viewer-title" class="file" aria-live="polite">{{ info.name }}</h2>
          <span class="steps">
            <button type="button" :disabled="neighbor(-1) < 0" aria-label="Previous image" title="Previous image (←)" @click="go(-1)">‹</button>
            <span class="hint" v-if="place >= 0">{{ format.count(place + 1) }} of {{ format.count(order.length) }}</span>
            <button type="button" :disabled="neighbor(1) < 0" aria-label="Next image" title="Next image (→)" @click="go(1)">›</button>
          </span>
        </header>
        <div class="viewer-scores" v-if="info.pq?.some(format.known)">
          <button v-for="(p, k) in predictions" :key="k" type="button" class="score-tile" :aria-pressed="k === state.prediction" @click="state.prediction = k">
            <span>{{ p.name }}</span><b>PQ {{ format.percent(info.pq[k]) }}</b>
            <small>{{ format.count(info.tp?.[k]) }} TP · <span class="text-fp">{{ format.count(info.fp?.[k]) }} FP</span> · <span class="text-fn">{{ format.count(info.fn?.[k]) }} FN</span></small>
          </button>
          <span v-if="pair && format.known(delta(info))" class="delta" :class="{ up: delta(info) > 0, down: delta(info) < 0 }">Δ {{ format.signed(delta(info)) }}</span>
        </div>
        <PredictionChoice v-else></PredictionChoice>
        <p v-for="text in info.problems ?? []" :key="text" class="problem">{{ text }}</p>
        <p v-if="failure" class="card problem" role="alert">{{ failure }}</p>
        <div v-else class="viewer-layout" :class="{ side: state.sideBySide }">
          <div class="stage" :class="{ loading }">
            <div class="panes" :style="{ '--panes': panes.length, '--aspect': view.width / view.height }">
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
          <aside class="panel">
            <fieldset><legend>Layers</legend>
              <div v-for="([key, label], i) in LAYERS" :key="key" class="layer-row" :class="{ off: !available[key] }">
                <label class="check"><input type="checkbox" v-model="state.layers[key].on" :disabled="!available[key]" :title="'Key ' + (i + 1)"> {{ label }}</label>
                <input type="range" min="0" max="100" v-model.number="state.layers[key].opacity" :disabled="!available[key] || !state.layers[key].on" :aria-label="'Opacity of ' + label">
              </div>
            </fieldset>
            <fieldset v-if="available.errors"><legend>Kinds of error</legend>
              <label v-for="kind in kinds" :key="kind.code" class="check kind-row" :title="kind.text"><input type="checkbox" :checked="!state.hiddenKinds.includes(kind.code)"
                @change="toggleKind(kind.code)"><span class="key" :class="'pattern-' + kind.pattern"></span>{{ kind.label }}<span class="figure">{{ format.percent(kind.share) }}%</span></label>
            </fieldset>
            <section class="segments" aria-label="Segments"><h3>Segments <label class="check" v-if="canBeWrong"><input type="checkbox" v-model="onlyWrong"> only errors ({{ wrongCount }})</label></h3>
              <p v-if="!listed.length" class="hint">{{ segments.length ? 'No segment is wrong.' : 'No segments.' }}</p>
              <ul><li v-for="entry in listed" :key="entry.side + entry.segment.n"><button type="button" class="segment" :aria-pressed="selected?.side === entry.side && selected?.n === entry.segment.n"
                @click="choose(entry)"><SegmentLine :entry="entry"></SegmentLine></button></li></ul>
            </section>
            <details class="keys"><summary>Keys</summary><p class="hint">← → image · + − 0 zoom · Shift + arrows move · 1–4 layers<template v-if="predictions.length > 1"> · P prediction</template> · S side by side · Esc list</p></details>
          </aside>
        </div>
        <div v-if="pixel" class="tooltip" role="tooltip" :style="tooltipStyle">
          <dl>
            <template v-if="shown.predictions[state.prediction]"><dt>{{ predictions.length > 1 ? predictions[state.prediction].name : 'Prediction' }}</dt>
              <dd data-side="pred"><SegmentLine v-if="pixel.prediction" :entry="pixel.prediction"></SegmentLine><span v-else class="hint">void</span></dd></template>
            <template v-if="shown.truth"><dt>Ground truth</dt>
              <dd data-side="gt"><SegmentLine v-if="pixel.truth" :entry="pixel.truth"></SegmentLine><span v-else class="hint">void</span></dd></template>
            <template v-if="kindOfCode.get(pixel.code)"><dt>This pixel</dt>
              <dd data-side="pixel"><span class="badge" :class="'pattern-' + kindOfCode.get(pixel.code).pattern">{{ kindOfCode.get(pixel.code).label }}</span></dd></template>
          </dl>
        </div>
      </section>`,
  };
})();
