// The page: its head, the tabs and the section that the address names.
"use strict";

(() => {
  const { ref, onMounted, computed, watch, nextTick } = Vue;
  const { state, sections, readAddress, setIndex } = report.store;

  const SECTIONS = {
    summary: report.Summary,
    classes: report.Classes,
    confusion: report.Confusion,
    images: report.Images,
    worst: report.Worst,
    compare: report.Compare,
    image: report.Viewer,
  };

  const App = {
    setup() {
      onMounted(async () => {
        try {
          setIndex(await report.data.loadIndex());
          readAddress();
        } catch (error) {
          state.failure = error.message;
        }
      });
      // A list is left at some height; it is shown at this height again after a look at an image.
      const heights = {};
      addEventListener("hashchange", () => {
        if (!state.index) return;
        const before = state.section;
        heights[before] = scrollY;
        readAddress();
        if (state.section !== before)
          nextTick(() => scrollTo(0, before === "image" ? (heights[state.section] ?? 0) : 0));
      });
      watch(
        () => state.index?.title,
        (title) => title && (document.title = title),
      );
      // On a phone the row of tabs is wider than the page.
      const nav = ref(null);
      watch(
        () => [state.section, state.index],
        () =>
          nextTick(() =>
            nav.value?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }),
          ),
      );
      const current = computed(() => SECTIONS[state.section]);
      const tab = computed(() => (state.section === "image" ? "images" : state.section));
      const created = computed(() => `${String(state.index?.created).replace("T", " ").slice(0, 16)} UTC`);
      return { state, sections, current, tab, nav, created };
    },
    template: `
      <a class="skip" href="#main" @click.prevent="$refs.main.focus()">Skip to the content</a>
      <p v-if="state.failure" class="loading problem" role="alert">{{ state.failure }}</p>
      <p v-else-if="!state.index" class="loading">Loading the report …</p>
      <template v-else>
        <header class="page-head">
          <div class="page-title"><h1>{{ state.index.title }}</h1><p class="hint">{{ created }}</p></div>
          <nav ref="nav" aria-label="Sections"><a v-for="section in sections" :key="section.key" :href="'#/' + section.key"
            :aria-current="tab === section.key ? 'page' : null">{{ section.label }}</a></nav>
        </header>
        <main ref="main" id="main" tabindex="-1"><component :is="current"></component></main>
        <footer class="hint">Made by panoptic_fusion. The page works offline and sends nothing.</footer>
      </template>`,
  };

  Vue.createApp(App).mount("#app");
})();
