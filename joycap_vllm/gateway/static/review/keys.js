// Everything can be done from the keyboard.

const $ = (id) => document.getElementById(id);
const WRITING = "textarea, input, select";

export function listen({ detail, grid, step, undo, close, isOpen, isPhone }) {
  const far = () => Math.max(1, Math.floor(grid.pane.clientHeight / grid.height)) * grid.columns;
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    ArrowDown: () => step(grid.columns),
    ArrowUp: () => step(-grid.columns),
    PageDown: () => step(far()),
    PageUp: () => step(-far()),
    Home: () => grid.choose(0),
    End: () => grid.choose(grid.total - 1),
    e: () => edit(),
    Enter: () => edit(),
    a: () => detail.accept(),
    r: () => detail.ask(),
    t: () => $("type").focus(),
    y: () => detail.take(),
    u: () => undo(),
    "/": () => $("text").focus(),
    "?": () => $("help").showModal(),
  };

  async function edit() {
    if (isPhone() && !isOpen()) await grid.choose(Math.max(0, grid.chosen), true);
    if (detail.item) detail.focus();
  }

  function escape(target) {
    if (target === detail.text) {
      detail.revert();
      $("grid").focus({ preventScroll: true });
    } else if (!$("conflict").hidden) detail.hideConflict();
    else if (!$("offer").hidden) detail.drop();
    else if (target.matches(WRITING)) $("grid").focus({ preventScroll: true });
    else if (isOpen() && isPhone()) close();
  }

  // Without waiting: the keys that follow at once are no words of the caption.
  function save() {
    detail.save();
    $("grid").focus({ preventScroll: true });
  }

  document.addEventListener("keydown", (event) => {
    if ($("help").open || event.isComposing) return;
    const { target, key } = event;
    const mod = event.ctrlKey || event.metaKey;
    let act = null;
    if (key === "Escape") act = () => escape(target);
    else if (mod && key === "Enter") act = target === detail.text ? save : null;
    else if (mod && key.toLowerCase() === "z" && !event.shiftKey) {
      // In a text that was changed it takes back what was typed.
      act = target.matches(WRITING) && (target !== detail.text || detail.changed) ? null : undo;
    } else if (!mod && !event.altKey && !target.matches(WRITING)) {
      const pressed = key === "Enter" && target.matches("button, a") ? null : key;
      act = keys[pressed] ?? null;
    }
    if (!act) return;
    event.preventDefault();
    act();
  });
}
