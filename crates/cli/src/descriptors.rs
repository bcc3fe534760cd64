//! File descriptors: each tunnel holds one or more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process may, and warns where that is less than
/// the `needed` number; `who` wants them. The soft limit is low for the sake of old programs that
/// use `select`; we are none.
pub(crate) fn raise(needed: usize, who: &str) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current
        }
    };
    if let Some(limit) = limit.filter(|limit| *limit < needed as u64) {
        tracing::warn!(
            "at most {limit} open files, and {who} may want {needed}: raise the hard limit (`ulimit -Hn`, systemd's LimitNOFILE), or lower streams_max or connections_max in config.toml"
        );
    }
}
