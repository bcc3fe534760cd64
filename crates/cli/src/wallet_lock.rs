//! One process of this machine at a time sends transactions of a wallet on a chain, whatever data
//! directory it works on. (Within one directory the store's and the journal's locks see to it; other
//! machines, and containers with a network of their own, show by the nonces that they use.)

use anyhow::Result;
use sparewire_core::Address;

/// Holds the wallet until this process ends.
///
/// The lock is a name, not a file: an abstract Unix socket, which the kernel gives up with the
/// process however that ends. Nothing has to be writable, and nothing is left behind. On systems
/// without such names this does nothing.
///
/// The embedded chain is left out: its money is worth nothing, and there are as many chains of its
/// id as there are people who try it.
///
/// # Errors
/// Where another process holds it.
pub(crate) fn hold(chain_id: u64, wallet: Address) -> Result<()> {
    if chain_id == crate::network::CHAIN_ID {
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    {
        use std::{
            io::ErrorKind,
            os::{
                linux::net::SocketAddrExt,
                unix::net::{SocketAddr, UnixListener},
            },
        };
        let name = format!("sparewire wallet {wallet} on chain {chain_id}");
        match SocketAddr::from_abstract_name(&name).and_then(|name| UnixListener::bind_addr(&name))
        {
            // Nobody connects to it: it is there to be there.
            Ok(listener) => std::mem::forget(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                anyhow::bail!(
                    crate::hint::Hint::new(format!(
                        "another process of this machine uses wallet {wallet} on chain {chain_id}"
                    ))
                    .hint(
                        "two would take each other's nonces: stop that one, or give this data \
                         directory keys of its own (`sparewire wallet new --index N`)"
                    )
                )
            }
            // Where the system forbids such sockets, nonces still tell.
            Err(error) => tracing::debug!(%error, "no lock on the wallet"),
        }
    }
    Ok(())
}
