"""The page's look, in one place: light and dark by the reader's setting, narrow screens, print."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1c2430; --muted: #5d6877; --line: #dfe3e9;
  --accent: #0072b2; --good: #00704f; --good-soft: #e2f4ed; --bad: #b23c00; --bad-soft: #fdece2;
  --even: #4b5563; --even-soft: #eceff3; --mark: #eef5fb;
  --base: #7a8594; --named: #7a8594; --rl: #0072b2; --weight: #d55e00; --logit: #00845f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0e1116; --card: #161b22; --ink: #e4e8ee; --muted: #9aa6b5; --line: #2a323d;
    --accent: #56b4e9; --good: #4fd6a9; --good-soft: #12352b; --bad: #f5935a; --bad-soft: #3d2213;
    --even: #b4bdc9; --even-soft: #252c36; --mark: #1b2a3a;
    --base: #8b97a6; --named: #8b97a6; --rl: #56b4e9; --weight: #f0803c; --logit: #2fc396;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 980px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 8px; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 21px; line-height: 1.3; margin: 52px 0 10px; letter-spacing: -0.005em; }
h3 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 0 0 12px; max-width: 46em; }
a { color: var(--accent); text-underline-offset: 2px; }
code { font: 0.9em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.eyebrow { color: var(--muted); font-size: 14px; margin: 0; }
.facts { color: var(--muted); font-size: 15px; margin: 0; max-width: none; }
.facts span { white-space: nowrap; }
.facts span:not(:last-child)::after { content: " \\00b7"; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.verdict { margin: 28px 0 0; padding: 24px 26px 14px; }
.verdict h2 { font-size: 24px; margin: 0 0 16px; text-wrap: balance; }
.verdict ul { list-style: none; margin: 0; padding: 0; }
.verdict li { display: flex; gap: 14px; align-items: baseline; margin: 0 0 12px; }
.verdict li p { margin: 0; max-width: none; }
.badge { flex: none; width: 8.6em; text-align: center; border-radius: 999px; padding: 2px 0;
  font-size: 13px; font-weight: 600; }
.better { color: var(--good); background: var(--good-soft); }
.worse { color: var(--bad); background: var(--bad-soft); }
.unclear, .unknown, .sharpening, .uncontrolled { color: var(--even); background: var(--even-soft); }
.tiles + .small { margin-top: 10px; }
.small { color: var(--muted); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 14px 0 0; }
.tile { padding: 14px 16px 12px; border-top: 3px solid var(--tile); }
.tile b { display: block; font-size: 26px; line-height: 1.15; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile .name { font-size: 14px; color: var(--muted); display: block; min-height: 2.7em;
  margin-bottom: 6px; line-height: 1.35; overflow-wrap: anywhere; }
.tile .range { font-size: 14px; color: var(--muted); font-variant-numeric: tabular-nums; }
nav { margin: 26px 0 0; font-size: 15px; display: flex; flex-wrap: wrap; gap: 4px 18px; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
figure { margin: 18px 0 26px; padding: 14px 16px 12px; }
figure .plate { overflow-x: auto; }
figure img { display: block; width: 100%; height: auto; min-width: 560px; }
figcaption { color: var(--muted); font-size: 14.5px; line-height: 1.5; margin-top: 10px; }
figcaption b { color: var(--ink); font-weight: 600; }
.sheet { overflow-x: auto; padding: 4px 0; margin: 14px 0 22px; }
@media screen and (min-width: 1040px) {
  .wide { width: min(1120px, 100vw - 60px); margin-left: 50%; transform: translateX(-50%); }
}
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: 6px;
  border-bottom: 1px solid var(--line); }
tr:last-child > td, tr:last-child > th { border-bottom: 0; }
tbody + tbody tr:first-child > * { border-top: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 600; font-size: 13px; white-space: nowrap; }
th.group { padding-top: 14px; font-size: 14.5px; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; }
th:first-child, td:first-child { padding-left: 16px; }
th:last-child, td:last-child { padding-right: 16px; }
td .range { color: var(--muted); white-space: nowrap; }
tr.chosen > * { background: var(--mark); }
table.words { font-size: 15px; }
table.words th, table.words td { padding: 8px 16px; }
table.words th { width: 12em; font-weight: 600; }
dl { margin: 0; }
dt { font-weight: 600; margin-top: 12px; }
dd { margin: 2px 0 0; color: var(--muted); max-width: 46em; }
details { margin: 12px 0; padding: 10px 16px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; margin: 12px 0 4px; font: 13px/1.5 ui-monospace, "SF Mono", Menlo,
  Consolas, "DejaVu Sans Mono", monospace; }
.absent { color: var(--muted); border-left: 3px solid var(--line); padding: 2px 0 2px 14px;
  margin: 12px 0; }
@media (max-width: 600px) {
  main { padding: 24px 14px 48px; }
  h1 { font-size: 25px; }
  h2 { margin-top: 40px; }
  .verdict { padding: 18px 16px 8px; }
  .verdict h2 { font-size: 20px; }
  .verdict li { display: block; margin-bottom: 18px; }
  .badge { display: inline-block; margin-bottom: 6px; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  figure { padding: 10px 10px 12px; }
  table.words, table.words tbody, table.words tr, table.words th, table.words td {
    display: block; width: auto; }
  table.words th { border: 0; padding-bottom: 0; }
  table.words tr:not(:last-child) td { border-bottom: 1px solid var(--line); }
}
@media screen and (max-width: 600px) {
  .plate + figcaption::before { content: "(The figure scrolls sideways.) "; }
}
@media print {
  @page { margin: 16mm 14mm; }
  body { background: none; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3, tr:has(> .group) { break-after: avoid; }
  figure, .tile, .verdict, tr { break-inside: avoid; }
  figure img { min-width: 0; }
  .plate, .sheet, pre { overflow: visible; }
  table { font-size: 9pt; }
  th, td { padding: 4px 6px; }
  pre { white-space: pre-wrap; }
}
"""
