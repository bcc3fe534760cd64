//! The meter: what it admits against what a plain sum says.

use sparewire_core::ByteCount;
use sparewire_protocol::{Direction, Meter, Reading};

use super::input::Input;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Admit(Direction, u64),
    Limit(u64),
}

fn operation(input: &mut Input<'_>) -> Operation {
    match input.below(4) {
        0 => Operation::Admit(Direction::Up, input.number()),
        1 | 2 => Operation::Admit(Direction::Down, input.number()),
        _ => Operation::Limit(input.number()),
    }
}

/// The meter never admits above its limit and all that is left of it; its counters only grow, and
/// are together what was admitted.
pub fn meter(bytes: &[u8]) {
    let mut input = Input(bytes);
    let start =
        Reading { up: ByteCount::new(input.number()), down: ByteCount::new(input.number()) };
    let Some(mut admitted) = start.checked_total().map(ByteCount::get) else { return };
    let mut limit = input.number();
    let meter = Meter::new(start, ByteCount::new(limit));
    let mut before = start;
    for operation in input.list(1_000, operation) {
        match operation {
            Operation::Admit(direction, want) => {
                let want = usize::try_from(want).unwrap_or(usize::MAX);
                let granted = meter.admit(direction, want);
                let room = limit.saturating_sub(admitted);
                assert_eq!(granted as u64, room.min(want as u64), "neither more nor less");
                let (grown, still) = match direction {
                    Direction::Up => (meter.reading().up, meter.reading().down == before.down),
                    Direction::Down => (meter.reading().down, meter.reading().up == before.up),
                };
                let was = if direction == Direction::Up { before.up } else { before.down };
                assert_eq!(grown.get(), was.get() + granted as u64, "counted where it moves");
                assert!(still, "and nowhere else");
                admitted += granted as u64;
                assert!(granted == 0 || admitted <= limit, "never above the limit");
            }
            Operation::Limit(new) => {
                limit = new;
                meter.set_limit(ByteCount::new(new));
            }
        }
        let reading = meter.reading();
        assert!(reading.covers(before), "counters only grow");
        assert_eq!(reading.checked_total(), Some(ByteCount::new(admitted)), "up + down");
        assert_eq!(meter.admitted(), admitted);
        assert_eq!(meter.limit().get(), limit);
        assert_eq!(meter.is_closed(), admitted >= limit);
        before = reading;
    }
}
