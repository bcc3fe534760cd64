//! How fast a torrent goes from one engine to another over loopback:
//! `cargo run --release -p sparewire-node --example content_rate -- MIB [DOWNLOADERS] [v1|v2|hybrid]`.
//! Prints one line of figures for each downloader. CPU time is that of the whole process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Instant,
};

use sparewire_content::{Builder, Format};
use sparewire_node::content::{AddTorrent, Engine, EngineConfig, TorrentState};

const PART: usize = 1 << 20;

fn part(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..PART / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Seconds of CPU time of this process.
fn cpu_secs() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().unwrap_or("256".into()).parse()?;
    let downloaders: usize = args.next().unwrap_or("1".into()).parse()?;
    let format = match args.next().as_deref() {
        Some("v1") => Format::V1,
        Some("v2") => Format::V2,
        _ => Format::Hybrid,
    };
    let home = std::env::temp_dir().join(format!("content-rate-{}", std::process::id()));
    let shared = home.join("shared");
    std::fs::create_dir_all(&shared)?;
    let mut builder = Builder::file("data", mib << 20)?.format(format);
    let mut data = Vec::new();
    for number in 0..mib {
        let part = part(number);
        builder.update(&part)?;
        data.push(part);
    }
    std::fs::write(shared.join("data"), data.concat())?;
    drop(data);
    let metainfo = builder.finish()?;

    let config = || EngineConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let add = |root: PathBuf| AddTorrent {
        remembered_at: Some(root.with_extension("have")),
        ..AddTorrent::new(metainfo.clone(), root)
    };
    let seeder = Engine::start(config()).await?;
    let seeding = seeder.add(add(shared)).await?;
    seeding.state().wait_for(|state| *state == TorrentState::Seeding).await?;

    let (begun, cpu) = (Instant::now(), cpu_secs());
    let mut running = Vec::new();
    for number in 0..downloaders {
        let engine = Engine::start(config()).await?;
        let torrent = engine.add(add(home.join(number.to_string()))).await?;
        torrent.add_peer(seeder.listens());
        running.push((engine, torrent));
    }
    for (_, torrent) in &running {
        torrent.state().wait_for(|state| *state == TorrentState::Seeding).await?;
        let secs = begun.elapsed().as_secs_f64();
        println!(
            "{format:?}: {mib} MiB in {secs:.2} s, {:.0} MB/s",
            (mib << 20) as f64 / secs / 1e6
        );
    }
    let cpu = cpu_secs() - cpu;
    let gib = (mib * downloaders as u64) as f64 / 1024.0;
    println!("{:.2} CPU-s per GiB, both ends", cpu / gib);
    for (engine, _) in running {
        engine.shutdown().await;
    }
    seeder.shutdown().await;
    Ok(std::fs::remove_dir_all(home)?)
}
