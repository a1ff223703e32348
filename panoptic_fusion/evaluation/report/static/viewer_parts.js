// Parts of the viewer: the tooltip, the switches of layers and kinds of error, and the list of segments.
"use strict";

report.viewerParts = (() => {
  const { ref, computed } = Vue;
  const { state, predictions, categories } = report.store;
  const { Swatch, KindBadge } = report.parts;
  const { describePixel, listSegments } = report.viewerImage;
  const { KINDS, kindOfCode } = report.measures;
  const format = report.format;

  const LAYERS = [
    { key: "photo", label: "Photo" },
    { key: "truth", label: "Ground truth" },
    { key: "prediction", label: "Prediction" },
    { key: "errors", label: "Errors" },
  ];

  // One segment in the tooltip or in the list. entry: see `describeTruth` and `describePrediction`.
  const SegmentLine = {
    components: { Swatch, KindBadge },
    props: { entry: Object },
    setup: (props) => ({ format, category: computed(() => categories.value[props.entry.segment.category]) }),
    template: `
      <span class="segment-line">
        <Swatch :color="category?.color"></Swatch><b class="class">{{ category?.name ?? 'unknown class' }}</b>
        <span v-if="format.known(entry.segment.score)" class="figure">score {{ format.fraction(entry.segment.score) }}</span>
        <span v-if="format.known(entry.iou)" class="figure">IoU {{ format.fraction(entry.iou) }}</span>
        <KindBadge v-if="entry.kind" :kind="entry.kind"></KindBadge>
      </span>`,
  };

  // What is under the pointer. pointer: {x, y: pixel of the map, clientX, clientY}.
  const Tooltip = {
    components: { SegmentLine },
    props: { image: Object, pointer: Object },
    setup(props) {
      const pixel = computed(() => describePixel(props.image, state.prediction, props.pointer.x, props.pointer.y));
      const sides = computed(() => {
        const name = predictions.value.length > 1 ? predictions.value[state.prediction].name : "Prediction";
        const shown = [];
        if (props.image.predictions[state.prediction])
          shown.push({ side: "pred", name, entry: pixel.value.prediction });
        if (props.image.truth) shown.push({ side: "gt", name: "Ground truth", entry: pixel.value.truth });
        return shown;
      });
      const kind = computed(() => kindOfCode.get(pixel.value.code));
      // Away from the pointer, on the side that has more room.
      const place = computed(() => {
        const { clientX: x, clientY: y } = props.pointer;
        const { clientWidth: width, clientHeight: height } = document.documentElement;
        return {
          ...(x > width / 2 ? { right: `${width - x + 14}px` } : { left: `${x + 14}px` }),
          ...(y > height / 2 ? { bottom: `${height - y + 14}px` } : { top: `${y + 14}px` }),
        };
      });
      return { sides, kind, place };
    },
    template: `
      <dl class="tooltip" role="tooltip" :style="place">
        <template v-for="{ side, name, entry } in sides" :key="side">
          <dt>{{ name }}</dt>
          <dd :data-side="side">
            <SegmentLine v-if="entry" :entry="entry"></SegmentLine><span v-else class="hint">void</span>
          </dd>
        </template>
        <template v-if="kind">
          <dt>This pixel</dt>
          <dd data-side="pixel"><span class="badge" :class="'pattern-' + kind.pattern">{{ kind.label }}</span></dd>
        </template>
      </dl>`,
  };

  // Switches and sliders. available: layer -> whether the image has it; errors: error map of the prediction, or null.
  const LayerPanel = {
    props: { available: Object, errors: Object },
    setup(props) {
      const kinds = computed(() => {
        const { counts = [], width = 1, height = 1 } = props.errors ?? {};
        return KINDS.map((kind) => ({ ...kind, share: (100 * (counts[kind.code] ?? 0)) / (width * height) }));
      });
      return { layers: state.layers, state, kinds, LAYERS, format };
    },
    template: `
      <fieldset>
        <legend>Layers</legend>
        <div v-for="({ key, label }, i) in LAYERS" :key="key" class="layer-row" :class="{ off: !available[key] }">
          <label class="check" :title="'Key ' + (i + 1)">
            <input type="checkbox" v-model="layers[key].on" :disabled="!available[key]"> {{ label }}</label>
          <input type="range" min="0" max="100" v-model.number="layers[key].opacity" :aria-label="'Opacity of ' + label"
            :disabled="!available[key] || !layers[key].on">
        </div>
      </fieldset>
      <fieldset v-if="available.errors">
        <legend>Kinds of error</legend>
        <label v-for="kind in kinds" :key="kind.code" class="check kind-row" :title="kind.text">
          <input type="checkbox" :value="kind.code" v-model="state.shownKinds">
          <span class="key" :class="'pattern-' + kind.pattern"></span>{{ kind.label }}
          <span class="figure">{{ format.percent(kind.share) }}%</span>
        </label>
      </fieldset>`,
  };

  // Segments of one image, errors first. selected: {side, n} or null; emits `choose` with an entry.
  const SegmentList = {
    components: { SegmentLine },
    props: { image: Object, selected: Object },
    emits: ["choose"],
    setup(props) {
      const onlyWrong = ref(true);
      const all = computed(() => (props.image ? listSegments(props.image, state.prediction) : []));
      const wrong = computed(() => all.value.filter((entry) => entry.wrong));
      const judged = computed(() => all.value.some((entry) => entry.kind && entry.kind !== "crowd"));
      const shown = computed(() => (judged.value && onlyWrong.value ? wrong.value : all.value));
      const isSelected = ({ side, segment }) => props.selected?.side === side && props.selected?.n === segment.n;
      return { onlyWrong, all, wrong, judged, shown, isSelected };
    },
    template: `
      <section class="segments" aria-label="Segments">
        <h3>Segments <label class="check" v-if="judged"><input type="checkbox" v-model="onlyWrong"> only errors ({{ wrong.length }})</label></h3>
        <p v-if="!shown.length" class="hint">{{ all.length ? 'No segment is wrong.' : 'No segments.' }}</p>
        <ul>
          <li v-for="entry in shown" :key="entry.side + entry.segment.n">
            <button type="button" class="segment" :aria-pressed="isSelected(entry)" @click="$emit('choose', entry)">
              <SegmentLine :entry="entry"></SegmentLine></button>
          </li>
        </ul>
      </section>`,
  };

  return { LAYERS, Tooltip, LayerPanel, SegmentList };
})();
