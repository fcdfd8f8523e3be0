"use strict";
// A sweep's sounds: each group is one utterance, with a player for each setting.
(() => {
  const groups = [...document.querySelectorAll(".group")].map((group) => ({
    button: group.querySelector(".in-a-row"),
    players: [...group.querySelectorAll("audio")],
  }));
  const match = document.getElementById("match");

  // The volume at which a sound is as loud as the quietest of its group. Levels are in decibels.
  function setVolumes({ players }) {
    const levels = players.map((player) => Number(player.dataset.level));
    const quietest = Math.min(...levels);
    players.forEach((player, place) => {
      const gain = match.checked ? quietest - levels[place] : 0;
      player.volume = 10 ** (gain / 20);
      const shown = player.parentElement.querySelector(".level");
      shown.dataset.level ??= shown.textContent;
      shown.textContent = shown.dataset.level + (gain ? `, played at −${(-gain).toFixed(1)} dB` : "");
    });
  }

  function setAllVolumes() {
    groups.forEach(setVolumes);
    const isDeaf = match.checked && groups.some(({ players }) => isUnmatched(players));
    document.getElementById("unmatched").textContent = isDeaf ? "This browser lets no page set the volume." : "";
  }

  // On iOS a page cannot set the volume, which stays at 1.
  const isUnmatched = (players) => players.every((player) => player.volume === 1) && new Set(players.map((player) => player.dataset.level)).size > 1;

  // One button plays a group's sounds from the first to the last. Whatever else pauses one ends it.
  function playInARow({ button, players }) {
    const idle = button.textContent;
    let current = -1;
    const show = (place) => {
      current = place;
      players.forEach((player, at) => player.parentElement.classList.toggle("playing", at === place));
      button.textContent = place < 0 ? idle : `Stop (${place + 1} of ${players.length})`;
    };
    const play = (place) => {
      show(place);
      players[place].currentTime = 0;
      players[place].play().catch(() => current === place && show(-1));
    };
    players.forEach((player, place) => {
      player.addEventListener("ended", () => {
        if (current === place) place + 1 < players.length ? play(place + 1) : show(-1);
      });
      player.addEventListener("pause", () => {
        if (current === place && !player.ended) show(-1);
      });
    });
    button.addEventListener("click", () => {
      const playing = players[current];
      if (!playing) return play(0);
      show(-1); // first: the sound may have ended, and the next would begin
      playing.pause();
    });
  }

  if (!match) return;
  match.addEventListener("change", setAllVolumes);
  setAllVolumes(); // a browser may keep a box checked when a page is loaded again
  groups.forEach(playInARow);
})();
