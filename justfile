# `just` lists the recipes; each is a thin name for a command that works without just.

default:
    @just --list

# A whole bandwidth market on this machine.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Everything that is tested; installs what it needs.
test:
    scripts/test

# Format Rust and Solidity.
fmt:
    cargo fmt --all
    cd contracts && bin/forge fmt

# What CI refuses to merge.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --release --locked -- -D warnings

# Build and test the contracts from a clean `npm ci`; `FOUNDRY_PROFILE=release just contracts` runs the long campaigns.
contracts *ARGS:
    scripts/contracts {{ARGS}}

# Figures of this machine: `just bench path`, `just bench --help`.
bench *ARGS:
    cargo run --release -p sparewire-bench -- {{ARGS}}

# A minute of simulated histories, half of them from seeds never tried; says the seed of what breaks.
sim *ARGS:
    cargo run --release --locked -p sparewire-sim -- run --secs 30 {{ARGS}}
    cargo run --release --locked -p sparewire-sim -- run --secs 30 --fresh {{ARGS}}

# Hours of them: `just sim-soak --hours 8`.
sim-soak *ARGS:
    cargo run --release --locked -p sparewire-sim -- run --fresh {{ARGS}}

# One history, made short where it breaks something, step by step: `SEED=42 just sim-replay`.
sim-replay *ARGS:
    cargo run --release --locked -p sparewire-sim -- replay "${SEED:?set SEED}" {{ARGS}}

# Write vectors/channels.json anew (viem); a change must be meant.
vectors:
    cd contracts && npm ci --ignore-scripts --no-audit --no-fund
    node vectors/generate.mjs

# What each way to cheat costs the honest, beside what it may cost: `just drill cheat`.
drill *ARGS:
    scripts/drill {{ARGS}}

# Plant bugs one after the other (some twenty minutes) and see that the simulator or a test finds them: `just mutants --list`.
mutants *ARGS:
    scripts/mutants {{ARGS}}

# Fuzz one target until something is found: `just fuzz frame -max_total_time=60`; `scripts/fuzz --list` names them.
fuzz TARGET *ARGS:
    scripts/fuzz {{TARGET}} {{ARGS}}

# Fuzz every target for so many seconds.
fuzz-all SECONDS='60':
    scripts/fuzz --all {{SECONDS}}

# Write the smallest corpora that cover as much; commit them.
fuzz-minimise *TARGETS:
    scripts/fuzz --minimise {{TARGETS}}

# API documentation of the libraries.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --exclude sparewire-cli --exclude sparewire-bench --no-deps --locked

# Licences, bans and sources of the dependencies.
deny:
    if command -v cargo-deny >/dev/null; then cargo deny check; else scripts/licences.mjs; fi

# All that CI does.
ci:
    bash .ci/run
