#!/usr/bin/env node
// Writes channels.json: what viem, which nobody here wrote, makes of Sparewire's EIP-712 messages.
//   node vectors/generate.mjs [FILE]     needs `npm ci` in contracts/ first
// Everything is fixed, so the output is the same every time. The keys are for tests only.
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const require = createRequire(join(here, '../contracts/package.json'))
const viem = require('viem')
const { concat, domainSeparator, hashTypedData, keccak256, numberToHex, toHex } = viem
const { privateKeyToAccount } = require('viem/accounts')

const ZERO = '0x0000000000000000000000000000000000000000'

const types = {
  ChannelConfig: [
    { name: 'payer', type: 'address' },
    { name: 'payerAuthorizer', type: 'address' },
    { name: 'payee', type: 'address' },
    { name: 'payeeAuthorizer', type: 'address' },
    { name: 'token', type: 'address' },
    { name: 'withdrawDelay', type: 'uint40' },
    { name: 'salt', type: 'bytes32' }
  ],
  Voucher: [
    { name: 'channelId', type: 'bytes32' },
    { name: 'amount', type: 'uint128' }
  ],
  CooperativeClose: [
    { name: 'channelId', type: 'bytes32' },
    { name: 'amount', type: 'uint128' }
  ],
  Receipt: [
    { name: 'channelId', type: 'bytes32' },
    { name: 'sessionId', type: 'bytes32' },
    { name: 'sequence', type: 'uint64' },
    { name: 'up', type: 'uint64' },
    { name: 'down', type: 'uint64' },
    { name: 'amount', type: 'uint128' },
    { name: 'previous', type: 'bytes32' },
    { name: 'time', type: 'uint64' }
  ],
  Delegation: [
    { name: 'wallet', type: 'address' },
    { name: 'device', type: 'bytes32' },
    { name: 'authorizer', type: 'address' },
    { name: 'expiry', type: 'uint64' }
  ]
}

const label = (text) => keccak256(toHex(`sparewire vectors: ${text}`))
const address = (text) => privateKeyToAccount(label(text)).address

const keyNames = ['payer', 'payer authorizer', 'second payer authorizer', 'third payer authorizer', 'payee', 'payee authorizer']
const keys = keyNames.map((name) => ({ name, privateKey: label(name), address: address(name) }))

const domains = [
  { chainId: 31337n, verifyingContract: address('contract') },
  { chainId: 1n, verifyingContract: address('contract') },
  { chainId: 31337n, verifyingContract: address('another contract') },
  { chainId: 9007199254740991n, verifyingContract: '0x00000000000000000000000000000000000000ff' }
].map((it) => ({ name: 'Sparewire Channels', version: '1', ...it }))

const usual = {
  payer: address('payer'),
  payerAuthorizer: address('payer authorizer'),
  payee: address('payee'),
  payeeAuthorizer: address('payee authorizer'),
  token: address('token'),
  withdrawDelay: 86400,
  salt: numberToHex(1n, { size: 32 })
}
const packable = [
  usual,
  { ...usual, payer: address('second payer'), payerAuthorizer: address('second payer authorizer'), salt: numberToHex(0xffffffffffffffffn, { size: 32 }) },
  { ...usual, payer: address('third payer'), payerAuthorizer: address('third payer authorizer'), salt: numberToHex(0n, { size: 32 }) }
]
const configs = [
  ...packable.map((config) => ({ domain: 0, config })),
  { domain: 1, config: usual },
  { domain: 2, config: usual },
  { domain: 3, config: usual },
  { domain: 0, config: { ...usual, payerAuthorizer: ZERO, payeeAuthorizer: ZERO, withdrawDelay: 900 } },
  { domain: 0, config: { ...usual, withdrawDelay: 2592000, salt: label('salt') } }
]

const hash = (domain, primaryType, message) => hashTypedData({ domain: domains[domain], types, primaryType, message })
const text = (value) => (typeof value === 'bigint' || typeof value === 'number' ? String(value) : value)
const texts = (object) => Object.fromEntries(Object.entries(object).map(([key, value]) => [key, text(value)]))

async function signed(domain, primaryType, message, signer) {
  const digest = hash(domain, primaryType, message)
  const account = privateKeyToAccount(label(signer))
  const signature = await account.signTypedData({ domain: domains[domain], types, primaryType, message })
  const compact = viem.serializeCompactSignature(viem.signatureToCompactSignature(viem.parseSignature(signature)))
  return { domain, ...texts(message), digest, signer: account.address, signature, compact }
}

const channels = configs.map(({ domain, config }) => ({ domain, ...texts(config), channelId: hash(domain, 'ChannelConfig', config) }))
const id = (channel) => channels[channel].channelId

const all = async (cases) => Promise.all(cases.map((it) => signed(...it)))

const amounts = [1_000_000n, 2n ** 104n - 1n, 7n]
const vouchers = await all([
  [0, 'Voucher', { channelId: id(0), amount: amounts[0] }, 'payer authorizer'],
  [0, 'Voucher', { channelId: id(1), amount: amounts[1] }, 'second payer authorizer'],
  [0, 'Voucher', { channelId: id(2), amount: amounts[2] }, 'third payer authorizer'],
  [1, 'Voucher', { channelId: id(3), amount: 1n }, 'payer authorizer'],
  [3, 'Voucher', { channelId: id(5), amount: 2n ** 128n - 1n }, 'payer authorizer'],
  [0, 'Voucher', { channelId: id(6), amount: 0n }, 'payer']
])

const cooperativeCloses = await all([
  [0, 'CooperativeClose', { channelId: id(0), amount: 1_000_000n }, 'payee authorizer'],
  [2, 'CooperativeClose', { channelId: id(4), amount: 0n }, 'payee authorizer'],
  [0, 'CooperativeClose', { channelId: id(6), amount: 2n ** 128n - 1n }, 'payee']
])

const first = {
  channelId: id(0),
  sessionId: label('session'),
  sequence: 1n,
  up: 1_048_576n,
  down: 16_777_216n,
  amount: 17_825n,
  previous: numberToHex(0n, { size: 32 }),
  time: 1_800_000_000n
}
const second = { ...first, sequence: 2n, down: 33_554_432n, amount: 34_603n, previous: hash(0, 'Receipt', first), time: 1_800_000_010n }
const widest = {
  ...first,
  sequence: 2n ** 64n - 1n,
  up: 2n ** 64n - 1n,
  down: 2n ** 64n - 1n,
  amount: 2n ** 128n - 1n,
  previous: label('previous'),
  time: 2n ** 64n - 1n
}
const receipts = await all([
  [0, 'Receipt', first, 'payer authorizer'],
  [0, 'Receipt', first, 'payee authorizer'],
  [0, 'Receipt', second, 'payer authorizer'],
  [3, 'Receipt', widest, 'payee authorizer']
])

const delegations = await all([
  [0, 'Delegation', { wallet: address('payer'), device: label('device'), authorizer: address('payer authorizer'), expiry: 1_800_086_400n }, 'payer'],
  [1, 'Delegation', { wallet: address('payee'), device: label('payee device'), authorizer: ZERO, expiry: 2n ** 64n - 1n }, 'payee']
])

const packedClaim = {
  domain: 0,
  vouchers: [0, 1, 2],
  data: concat([
    usual.token,
    usual.payee,
    usual.payeeAuthorizer,
    numberToHex(usual.withdrawDelay, { size: 5 }),
    ...packable.flatMap((config, i) => [
      config.payer,
      config.payerAuthorizer,
      numberToHex(BigInt(config.salt), { size: 8 }),
      numberToHex(amounts[i], { size: 13 }),
      vouchers[i].compact
    ])
  ]).toLowerCase()
}

const vectors = {
  keys,
  domains: domains.map((domain) => ({ ...texts(domain), separator: domainSeparator({ domain }) })),
  channels,
  vouchers,
  cooperativeCloses,
  receipts,
  delegations,
  packedClaim
}
writeFileSync(process.argv[2] ?? join(here, 'channels.json'), `${JSON.stringify(vectors, null, 2)}\n`)
