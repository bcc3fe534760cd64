// node webtorrent.mjs MODULES TORRENT FOLDER PORT: downloads what is missing in FOLDER, then seeds, by the
// webtorrent that is installed in MODULES. Over TCP alone; peers come from the torrent's tracker.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [modules, torrent, folder, port] = process.argv.slice(2)
const { default: WebTorrent } = await import(pathToFileURL(join(modules, 'webtorrent', 'index.js')))
const client = new WebTorrent({
  torrentPort: Number(port), dht: false, lsd: false, utp: false, utPex: false, natUpnp: false, natPmp: false, webSeeds: false
})
client.on('error', error => { console.error(error); process.exit(1) })
client.add(readFileSync(torrent), { path: folder })
