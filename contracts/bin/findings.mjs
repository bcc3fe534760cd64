#!/usr/bin/env node
// Compares what slither found with slither.findings, where each finding that was answered has a line below its answer:
//   node bin/findings.mjs REPORT       fails on a finding that is not in the list, and on one in the list that is gone
// Lines are the detector and slither's own words without places, so that they move with the code.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const report = JSON.parse(readFileSync(process.argv[2], 'utf8'))
if (!report.success) throw new Error(`slither failed: ${report.error}`)
const found = (report.results.detectors ?? []).map(({ check, description }) =>
  `${check}: ${description.replace(/ \([^()]*#[\d-]+\)/g, '').replace(/\s+/g, ' ').trim()}`
)
const list = readFileSync(fileURLToPath(new URL('../slither.findings', import.meta.url)), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))

/** What is in `these` more often than in `those`. */
function without(these, those) {
  const left = [...those]
  return these.filter((line) => {
    const place = left.indexOf(line)
    if (place >= 0) left.splice(place, 1)
    return place < 0
  })
}

const isNew = without(found, list)
const isGone = without(list, found)
for (const line of isNew) console.error(`not answered in slither.findings: ${line}`)
for (const line of isGone) console.error(`in slither.findings, and not found: ${line}`)
if (isNew.length > 0 || isGone.length > 0) process.exit(1)
console.log(`slither: ${found.length} findings, each of them answered`)
