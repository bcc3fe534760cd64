#!/usr/bin/env node
// Makes artifacts/*.json from src/ with npm's solc, without forge, so that the bytecode can be reproduced by anybody.
//   node bin/build.mjs           write them
//   node bin/build.mjs --check   fail unless the committed ones are byte for byte what the sources give
import { readFileSync, writeFileSync, mkdirSync, existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const solc = createRequire(import.meta.url)('solc')
const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const contracts = ['Arbitration', 'Channels', 'Council', 'Keys', 'Stake', 'TestToken', 'Towers']

/** The compiler settings are written once, in foundry.toml; these are the keys that reach the bytecode. */
function settingsOf(toml) {
  const profile = toml.split('[profile.default]')[1].split(/^\[/m)[0]
  const value = (key) => {
    const found = profile.match(new RegExp(`^${key} = (.*)$`, 'm'))
    if (!found) throw new Error(`foundry.toml has no ${key}`)
    return JSON.parse(found[1])
  }
  return {
    optimizer: { enabled: value('optimizer'), runs: value('optimizer_runs') },
    viaIR: value('via_ir'),
    evmVersion: value('evm_version'),
    metadata: { bytecodeHash: value('bytecode_hash'), appendCBOR: value('cbor_metadata') },
    outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } }
  }
}

function read(path) {
  const file = path.startsWith('@') ? join(root, 'node_modules', path) : join(root, path)
  return existsSync(file) ? { contents: readFileSync(file, 'utf8') } : { error: `no such file: ${path}` }
}

function compile() {
  const input = {
    language: 'Solidity',
    sources: Object.fromEntries(
      contracts.map((name) => [`src/${name}.sol`, { content: read(`src/${name}.sol`).contents }])
    ),
    settings: settingsOf(readFileSync(join(root, 'foundry.toml'), 'utf8'))
  }
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }))
  // 2394: OpenZeppelin's reentrancy guard uses transient storage, as it should.
  const errors = (output.errors ?? []).filter(({ severity, errorCode }) => severity !== 'info' && errorCode !== '2394')
  if (errors.length > 0) {
    throw new Error(errors.map((entry) => entry.formattedMessage).join('\n'))
  }
  return contracts.map((name) => {
    const { abi, evm } = output.contracts[`src/${name}.sol`][name]
    const artifact = {
      contractName: name,
      compiler: solc.version(),
      abi,
      bytecode: `0x${evm.bytecode.object}`,
      deployedBytecode: `0x${evm.deployedBytecode.object}`
    }
    return { name, text: `${JSON.stringify(artifact, null, 2)}\n` }
  })
}

const check = process.argv.includes('--check')
mkdirSync(join(root, 'artifacts'), { recursive: true })
for (const { name, text } of compile()) {
  const file = join(root, 'artifacts', `${name}.json`)
  const bytes = (JSON.parse(text).deployedBytecode.length - 2) / 2
  if (!check) {
    writeFileSync(file, text)
    console.log(`artifacts/${name}.json written, ${bytes} bytes of code`)
  } else if (!existsSync(file) || readFileSync(file, 'utf8') !== text) {
    console.error(`artifacts/${name}.json is not what the sources give: run node bin/build.mjs`)
    process.exitCode = 1
  } else {
    console.log(`artifacts/${name}.json is what the sources give, ${bytes} bytes of code`)
  }
}
