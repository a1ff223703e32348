// One view of an image: layers above each other, zoomed and moved together. All panes of the viewer share one `view`.
"use strict";

report.viewerPane = (() => {
  const { ref, reactive, computed, watch, onMounted, onBeforeUnmount } = Vue;
  const MAX_ZOOM = 40;
  const STEP = 1.3; // of a button or key

  // view: {zoom: 1 shows the whole image, x, y: pixel of the map at the center of the pane, width, height: of the map}.
  const newView = () => reactive({ zoom: 1, x: 0, y: 0, width: 1, height: 1 });

  function showAll(view, width = view.width, height = view.height) {
    Object.assign(view, { zoom: 1, x: width / 2, y: height / 2, width, height });
  }

  // Moves to a center; the pane stays filled with the image.
  function move(view, x, y) {
    const within = (value, size) => Math.min(size - size / (2 * view.zoom), Math.max(size / (2 * view.zoom), value));
    view.x = within(x, view.width);
    view.y = within(y, view.height);
  }

  // Zooms by a factor; the map's pixel (x, y) stays in its place.
  function zoomAt(view, factor, x = view.x, y = view.y) {
    const zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * factor));
    const part = view.zoom / zoom;
    view.zoom = zoom < 1.001 ? 1 : zoom;
    move(view, x + (view.x - x) * part, y + (view.y - y) * part);
  }

  // Shows a box [x0, y0, x1, y1] of the map with a margin.
  function showBox(view, box) {
    const size = Math.max((box[2] - box[0]) / view.width, (box[3] - box[1]) / view.height, 0.02);
    view.zoom = Math.min(MAX_ZOOM, Math.max(1, 0.5 / size));
    move(view, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2);
  }

  // Canvas that `paint(canvas)` fills; painted again when the function changes.
  const Layer = {
    props: { paint: Function },
    setup(props) {
      const canvas = ref(null);
      const draw = () => props.paint(canvas.value);
      onMounted(draw);
      watch(() => props.paint, draw);
      return { canvas };
    },
    template: `<canvas ref="canvas" class="layer" aria-hidden="true"></canvas>`,
  };

  const Pane = {
    components: { Layer },
    // layers: [{key, opacity 0-100, paint or src}], bottom first; outline: function that paints the outline.
    props: { view: Object, layers: Array, outline: Function, label: String, title: String },
    emits: ["point", "leave"],
    setup(props, { emit }) {
      const frame = ref(null);
      const size = reactive({ width: 1, height: 1 });
      const scale = computed(
        () => props.view.zoom * Math.min(size.width / props.view.width, size.height / props.view.height),
      );
      const place = computed(() => {
        const { x, y, width, height } = props.view;
        const corner = [size.width / 2 - x * scale.value, size.height / 2 - y * scale.value];
        const transform = `translate(${corner[0]}px, ${corner[1]}px) scale(${scale.value})`;
        return { width: `${width}px`, height: `${height}px`, transform };
      });
      // Without zoom, a finger that moves up or down scrolls the page.
      const frameStyle = computed(() => ({
        aspectRatio: `${props.view.width} / ${props.view.height}`,
        touchAction: props.view.zoom > 1 ? "none" : "pan-y",
      }));
      const measure = () => {
        size.width = frame.value.clientWidth || 1;
        size.height = frame.value.clientHeight || 1;
      };
      const observer = new ResizeObserver(measure);
      onMounted(() => {
        measure();
        observer.observe(frame.value);
      });
      onBeforeUnmount(() => observer.disconnect());

      // Position of a pointer in pixels of the map.
      const toMap = (event) => {
        const box = frame.value.getBoundingClientRect();
        return [
          (event.clientX - box.left - size.width / 2) / scale.value + props.view.x,
          (event.clientY - box.top - size.height / 2) / scale.value + props.view.y,
        ];
      };
      const wheel = (event) =>
        zoomAt(props.view, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...toMap(event));

      const pointers = new Map(); // id -> last event
      const spread = () => {
        const [a, b] = [...pointers.values()];
        return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
      };
      const down = (event) => {
        if (event.button) return;
        pointers.set(event.pointerId, event);
        frame.value.setPointerCapture(event.pointerId);
        tell(event);
      };
      const up = (event) => pointers.delete(event.pointerId);
      const moved = (event) => {
        const before = pointers.get(event.pointerId);
        if (before && pointers.size === 1) {
          const { view } = props;
          move(
            view,
            view.x - (event.clientX - before.clientX) / scale.value,
            view.y - (event.clientY - before.clientY) / scale.value,
          );
          pointers.set(event.pointerId, event);
        } else if (before) {
          const old = spread();
          pointers.set(event.pointerId, event);
          zoomAt(props.view, spread() / old, ...toMap(event));
        }
        tell(event);
      };
      const tell = (event) => {
        const [x, y] = toMap(event).map(Math.floor);
        const inside = x >= 0 && y >= 0 && x < props.view.width && y < props.view.height;
        if (inside) emit("point", { x, y, clientX: event.clientX, clientY: event.clientY });
        else emit("leave");
      };
      return { frame, frameStyle, place, scale, wheel, down, up, moved };
    },
    template: `
      <figure class="pane">
        <figcaption v-if="title">{{ title }}</figcaption>
        <div ref="frame" class="frame" tabindex="0" role="img" :aria-label="label" :style="frameStyle"
          @wheel.prevent="wheel" @pointerdown="down" @pointermove="moved" @pointerup="up" @pointercancel="up" @pointerleave="$emit('leave')">
          <div class="stack" :class="{ close: scale > 1.5 }" :style="place">
            <template v-for="layer in layers" :key="layer.key">
              <img v-if="layer.src" :src="layer.src" class="layer" alt="" draggable="false" :style="{ opacity: layer.opacity / 100 }">
              <Layer v-else :paint="layer.paint" :data-layer="layer.key" :style="{ opacity: layer.opacity / 100 }"></Layer>
            </template>
            <Layer :paint="outline" data-layer="outline"></Layer>
          </div>
        </div>
      </figure>`,
  };

  return { Pane, newView, showAll, showBox, zoomAt, move, STEP };
})();
