// node webtorrent.mjs MODULES TORRENT FOLDER PORT: downloads what is missing in FOLDER, then seeds, by the
// webtorrent that is installed in MODULES. Over TCP alone; peers come from the torrent's tracker, or by
// themselves.
import { readFileSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

// WebRTC would need a compiled module; what uses TCP does not miss it.
const nothing = 'export const RTCPeerConnection = class {}, RTCSessionDescription = class {}, RTCIceCandidate = class {}; export default {}'
register('data:text/javascript,' + encodeURIComponent(`
  export const resolve = (name, context, next) => name === 'webrtc-polyfill'
    ? { url: 'data:text/javascript,' + encodeURIComponent(${JSON.stringify(nothing)}), shortCircuit: true }
    : next(name, context)`))

const [modules, torrent, folder, port] = process.argv.slice(2)
const { default: WebTorrent } = await import(pathToFileURL(join(modules, 'webtorrent', 'index.js')))
const client = new WebTorrent({
  torrentPort: Number(port), dht: false, lsd: false, utp: false, utPex: false, natUpnp: false, natPmp: false, webSeeds: false
})
client.on('error', error => { console.error(error); process.exit(1) })
client.add(new Uint8Array(readFileSync(torrent)), { path: folder, announce: [] })
