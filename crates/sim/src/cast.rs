//! Who plays: keys and papers, made once for all worlds.

use std::sync::{Arc, OnceLock};

use sparewire_core::{Address, Domain, NodeId, Signed, Timestamp, Verified};
use sparewire_protocol::{ChannelConfig, Delegation};
use sparewire_wallet::{DeviceKey, LocalKey};

use crate::chain::{SimChain, Weather};

/// When every world begins, in milliseconds since the epoch.
pub const EPOCH_MS: u64 = 1_800_000_000_000;
/// How many parties there are keys for.
pub const PARTIES: usize = 7;
/// The watcher's party; the last one is a stranger.
pub const WATCHER: usize = PARTIES - 2;

/// A party's keys.
pub struct Identity {
    /// Its money.
    pub wallet: Arc<LocalKey>,
    /// What signs vouchers and receipts.
    pub authorizer: Arc<LocalKey>,
    /// What it is known by on the network.
    pub device: DeviceKey,
    /// The wallet's word for the others.
    pub delegation: Signed<Delegation>,
}

impl Identity {
    /// Its device's name.
    pub fn node_id(&self) -> NodeId {
        use sparewire_core::DeviceSigner as _;
        self.device.node_id()
    }

    /// Its wallet's address.
    pub fn address(&self) -> Address {
        use sparewire_core::Signer as _;
        self.wallet.address()
    }
}

/// The chain and contract of every world, and the token.
pub fn network() -> (Domain, Address) {
    static NETWORK: OnceLock<(Domain, Address)> = OnceLock::new();
    *NETWORK.get_or_init(|| {
        let chain = SimChain::new(Weather::calm(), 0);
        (chain.domain(), chain.token())
    })
}

/// The keys of party `number`, below [`PARTIES`].
pub fn identity(number: usize) -> &'static Identity {
    static CAST: OnceLock<Vec<Identity>> = OnceLock::new();
    &CAST.get_or_init(|| (0..PARTIES).map(|number| make(number as u8)).collect())[number]
}

fn make(number: u8) -> Identity {
    use sparewire_core::{DeviceSigner as _, Signer as _};
    let key = |of: u8| {
        Arc::new(LocalKey::from_secret(&[number * 8 + of; 32]).expect("not zero, not too large"))
    };
    let (wallet, authorizer) = (key(1), key(2));
    let device = DeviceKey::from_secret(&[number * 8 + 3; 32]);
    let delegation = Delegation {
        wallet: wallet.address(),
        device: device.node_id(),
        authorizer: authorizer.address(),
        expiry_secs: Timestamp::from_ms(EPOCH_MS).plus_ms(365 * 86_400_000).as_secs(),
    };
    let delegation =
        *Verified::sign(delegation, &network().0, &*wallet).expect("its key signs").signed();
    Identity { wallet, authorizer, device, delegation }
}

/// The channel number `salt` from `payer` to `payee`.
pub fn channel(payer: usize, payee: usize, salt: u64, withdraw_delay_secs: u32) -> ChannelConfig {
    use sparewire_core::Signer as _;
    let (payer, payee) = (identity(payer), identity(payee));
    ChannelConfig {
        payer: payer.address(),
        payer_authorizer: payer.authorizer.address(),
        payee: payee.address(),
        payee_authorizer: payee.authorizer.address(),
        token: network().1,
        withdraw_delay_secs,
        salt,
    }
}
