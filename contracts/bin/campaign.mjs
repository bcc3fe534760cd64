#!/usr/bin/env node
// Fails unless every function that the invariant suite calls succeeded in the campaign that `forge test` just ran:
// a suite in which some function always reverts proves nothing about it. Each line of cache/campaign is one run.
import { readFileSync, existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const file = fileURLToPath(new URL('../cache/campaign', import.meta.url))
if (!existsSync(file)) {
  console.error('cache/campaign is not there: the invariant suite did not run')
  process.exit(1)
}
const runs = readFileSync(file, 'utf8').trim().split('\n')
const sums = new Map()
for (const run of runs) {
  for (const [, name, count] of run.matchAll(/(\w+)=(\d+)/g)) {
    sums.set(name, (sums.get(name) ?? 0) + Number(count))
  }
}
console.log(`successes in ${runs.length} runs: ${[...sums].map(([name, sum]) => `${name} ${sum}`).join(', ')}`)
const never = [...sums].filter(([, sum]) => sum === 0).map(([name]) => name)
if (sums.size < 18 + 6 + 9 + 12 || never.length > 0) {
  console.error(`never succeeded: ${never.join(', ') || 'functions that are missing from cache/campaign'}`)
  process.exit(1)
}
