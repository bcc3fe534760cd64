#!/usr/bin/env node
// Writes what slither reads, as forge's build-info, into the directory DIR/build-info: the syntax trees of all contracts.
//   node bin/syntax.mjs DIR
// No code is generated for it, so it takes seconds.
import { readFileSync, writeFileSync, mkdirSync, existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const solc = createRequire(import.meta.url)('solc')
const root = join(dirname(fileURLToPath(import.meta.url)), '..')

function read(path) {
  const file = path.startsWith('@') ? join(root, 'node_modules', path) : join(root, path)
  return existsSync(file) ? { contents: readFileSync(file, 'utf8') } : { error: `no such file: ${path}` }
}

const input = {
  language: 'Solidity',
  sources: Object.fromEntries(
    readdirSync(join(root, 'src'))
      .filter((name) => name.endsWith('.sol'))
      .map((name) => [`src/${name}`, { content: read(`src/${name}`).contents }])
  ),
  settings: {
    remappings: ['@openzeppelin/=node_modules/@openzeppelin/'],
    outputSelection: { '*': { '': ['ast'], '*': ['abi', 'evm.methodIdentifiers'] } }
  }
}
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }))
const errors = (output.errors ?? []).filter(({ severity }) => severity === 'error')
if (errors.length > 0) throw new Error(errors.map((entry) => entry.formattedMessage).join('\n'))
for (const file of Object.values(output.contracts)) {
  for (const contract of Object.values(file)) {
    const none = { object: '', sourceMap: '' }
    Object.assign(contract, { metadata: '', userdoc: {}, devdoc: {} })
    Object.assign(contract.evm, { bytecode: none, deployedBytecode: none })
  }
}
const directory = join(process.argv[2], 'build-info')
mkdirSync(directory, { recursive: true })
const solcVersion = solc.version().replace(/\+.*/, '')
writeFileSync(join(directory, 'all.json'), JSON.stringify({ solcVersion, input, output }))
