#!/usr/bin/env node
// Checks deny.toml's licences, bans and sources over `cargo metadata`, without installing anything. `cargo deny check`
// reads the same file and checks more (advisories, licence texts); where it is installed, `just deny` runs it.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const config = readFileSync(join(root, 'deny.toml'), 'utf8').replace(/^\s*#.*$/gm, '')

/** The strings of the list `key = [ … ]` in a section. */
function list(section, key) {
  const body = config.split(`[${section}]`)[1]?.split(/^\[/m)[0] ?? ''
  const found = body.match(new RegExp(`^${key} = \\[([\\s\\S]*?)\\n\\]`, 'm'))
  if (!found) throw new Error(`deny.toml has no ${key} in [${section}]`)
  return [...found[1].matchAll(/"([^"]+)"/g)].map(([, text]) => text)
}

const allowed = new Set(list('licenses', 'allow'))
const banned = new Set(list('bans', 'deny'))

/** Whether an SPDX expression can be met by allowed licences. `/` is how old crates write OR. */
function isAllowed(expression) {
  const tokens = expression.replaceAll('/', ' OR ').match(/\(|\)|[^\s()]+/g) ?? []
  let at = 0
  const either = () => {
    let met = both()
    while (tokens[at] === 'OR') { at++; met = both() || met }
    return met
  }
  const both = () => {
    let met = one()
    while (tokens[at] === 'AND') { at++; met = one() && met }
    return met
  }
  const one = () => {
    if (tokens[at] === '(') {
      at++
      const met = either()
      at++
      return met
    }
    let name = tokens[at++]
    if (tokens[at] === 'WITH') { name = `${name} WITH ${tokens[at + 1]}`; at += 2 }
    return allowed.has(name)
  }
  return either() && at === tokens.length
}

const packages = new Map()
for (const target of list('graph', 'targets')) {
  const args = ['metadata', '--format-version', '1', '--locked', '--filter-platform', target]
  const text = execFileSync('cargo', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'inherit'] })
  const { packages: all, resolve } = JSON.parse(text)
  const used = new Set(resolve.nodes.map(({ id }) => id))
  for (const found of all) if (used.has(found.id)) packages.set(found.id, found)
}

const wrong = []
for (const { name, version, license, source } of packages.values()) {
  if (!license || !isAllowed(license)) wrong.push(`${name} ${version}: licence ${license ?? 'not stated'}`)
  if (banned.has(name)) wrong.push(`${name} ${version}: banned`)
  if (source !== null && !source.includes('crates.io-index')) wrong.push(`${name} ${version}: from ${source}`)
}
if (wrong.length > 0) {
  console.error(`against deny.toml:\n  ${wrong.join('\n  ')}`)
  process.exit(1)
}
console.log(`${packages.size} packages keep to deny.toml`)
