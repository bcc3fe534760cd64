// The entry points of the contracts, by their artifacts: every function that can change state.
// `node bin/entries.mjs` fails unless each has a check for halmos in symbolic/, or a reason here why it has none: a function
// `check_…` whose name has the entry's in it, and which calls it.
import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const contracts = ['Channels', 'Keys', 'Towers', 'Stake', 'Arbitration', 'Council']
const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url))

const sameInBonds = 'the code of Bonds, which is looked at in the other of its two contracts'
const changesNothing = 'says yes to a token and changes nothing'
const withoutCheck = {
  'Stake.announceLeaving': sameInBonds,
  'Stake.unbond': sameInBonds,
  'Arbitration.bond': sameInBonds,
  'Council.onERC721Received': changesNothing,
  'Council.onERC1155Received': changesNothing,
  'Council.onERC1155BatchReceived': changesNothing
}

/** `Contract.function` of each. */
export const entries = contracts.flatMap((contract) =>
  JSON.parse(readFileSync(path(`artifacts/${contract}.json`), 'utf8'))
    .abi.filter(({ type, stateMutability }) => type === 'function' && !['view', 'pure'].includes(stateMutability))
    .map(({ name }) => `${contract}.${name}`)
)

/** Says which of `entries` are neither in `found` nor in `exceptions`, and which exceptions are for nothing. */
export function missing(found, exceptions) {
  return [
    ...entries.filter((entry) => !found.has(entry) && !(entry in exceptions)).map((entry) => `${entry}: nothing`),
    ...Object.keys(exceptions)
      .filter((entry) => found.has(entry) || !entries.includes(entry))
      .map((entry) => `${entry}: an exception that is none`)
  ]
}

/** What the checks of one file call, where their names say so. A contract's variable is its name in lower case. */
function* calledIn(text) {
  for (const [, name, body] of text.matchAll(/function check_(\w+)\(([\s\S]*?\n {4}\})/g)) {
    for (const [, contract, entry] of body.matchAll(/\b([a-z]+)\.(\w+)\b/g)) {
      if (name.toLowerCase().includes(entry.toLowerCase())) yield `${contract[0].toUpperCase()}${contract.slice(1)}.${entry}`
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const called = new Set(
    readdirSync(path('symbolic')).flatMap((file) => [...calledIn(readFileSync(path(`symbolic/${file}`), 'utf8'))])
  )
  const problems = missing(new Set(entries.filter((entry) => called.has(entry))), withoutCheck)
  for (const problem of problems) console.error(`symbolic: ${problem}`)
  if (problems.length > 0) process.exit(1)
  const without = Object.keys(withoutCheck).length
  console.log(`symbolic: ${entries.length - without} entry points have checks, ${without} a reason to have none`)
}
