#!/usr/bin/env node
// Fails unless all that the invariant suite does really happened in the campaign that `forge test` just ran, every entry
// point of the contracts among it: a suite in which some function always reverts proves nothing about it. Each line of
// cache/campaign is one run: `name=successes` and `gas:what=the most that it took`.
import { readFileSync, existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { missing } from './entries.mjs'

const changesNothing = 'says yes to a token and changes nothing'
const withoutCampaign = {
  'Council.cancel': 'for who has a role that nobody has: tried and refused (refusedCancel)',
  'Council.onERC721Received': changesNothing,
  'Council.onERC1155Received': changesNothing,
  'Council.onERC1155BatchReceived': changesNothing
}

const file = fileURLToPath(new URL('../cache/campaign', import.meta.url))
if (!existsSync(file)) {
  console.error('cache/campaign is not there: the invariant suite did not run')
  process.exit(1)
}
const runs = readFileSync(file, 'utf8').trim().split('\n')
const sums = new Map()
const gas = new Map()
for (const [, measured, name, value] of runs.join(' ').matchAll(/(gas:)?([a-zA-Z][\w., ]*?)=(\d+)/g)) {
  if (measured) gas.set(name, Math.max(gas.get(name) ?? 0, Number(value)))
  else sums.set(name, (sums.get(name) ?? 0) + Number(value))
}
const list = (map) => [...map].map(([name, value]) => `${name} ${value}`).join('; ')
console.log(`successes in ${runs.length} runs: ${list(sums)}`)
console.log(`most gas of a transaction: ${list(gas)}`)

const happened = new Set([...sums].filter(([, sum]) => sum > 0).map(([name]) => name))
const problems = [
  ...missing(happened, withoutCampaign),
  ...[...sums.keys(), ...gas.keys()]
    .filter((name) => !happened.has(name) && !(gas.get(name) > 0))
    .map((name) => `${name}: never`)
]
for (const problem of problems) console.error(`campaign: ${problem}`)
if (problems.length > 0) process.exit(1)
