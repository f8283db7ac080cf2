// SPDX-License-Identifier: Apache-2.0
//! How fast packets may go: buckets of tokens for bytes and for packets, each way, and a timer for when
//! there is something in them again.
//!
//! A packet may go while its buckets are not empty, and takes what it needs, if need be on credit: so
//! one that is larger than a bucket goes, too, and what goes in the end is the rate. Buckets are the
//! device's, not the handler's: a driver that resets the device finds them as they were.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use walnut_vmm_config::{Bucket, NetRate, Rate};

/// A day: what is slower is no rate.
const MAX_REFILL_MS: u64 = 24 * 3600 * 1000;

/// A timer set to nothing is none.
const AT_ONCE: Duration = Duration::from_nanos(1);

/// One bucket, as the time at which it is full again.
#[derive(Clone, Copy, Debug)]
struct Level {
    size: u64,
    refill: Duration,
    full_at: Instant,
}

impl Level {
    fn new(bucket: Bucket, now: Instant) -> Self {
        Self {
            size: bucket.size,
            refill: Duration::from_millis(bucket.refill_ms),
            full_at: now,
        }
    }

    /// Until there is a token in it; `None` where there is.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let until_full = self.full_at.saturating_duration_since(now);
        let until_one = (until_full + self.time_of(1)).saturating_sub(self.refill);
        (!until_one.is_zero()).then_some(until_one)
    }

    fn spend(&mut self, tokens: u64, now: Instant) {
        self.full_at = self.full_at.max(now) + self.time_of(tokens);
    }

    /// What was just spent.
    fn give_back(&mut self, tokens: u64) {
        let before = self.full_at.checked_sub(self.time_of(tokens));
        self.full_at = before.unwrap_or(self.full_at);
    }

    /// In which so many come.
    fn time_of(&self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens) * self.refill.as_nanos();
        let nanos = nanos.div_ceil(u128::from(self.size));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// One way.
#[derive(Debug, Default)]
pub(super) struct Limit {
    bytes: Option<Level>,
    packets: Option<Level>,
    /// A packet waits, perhaps, since it was closed when last asked.
    closed: bool,
}

impl Limit {
    fn new(rate: Rate, now: Instant) -> Self {
        let level = |bucket| Level::new(bucket, now);
        Self {
            bytes: rate.bytes.map(level),
            packets: rate.operations.map(level),
            closed: false,
        }
    }

    fn levels(&self) -> impl Iterator<Item = &Level> {
        self.bytes.iter().chain(&self.packets)
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        self.levels().filter_map(|level| level.wait(now)).max()
    }

    /// Whether a packet may go now; [`Limits::arm`] tells when, where it may not.
    pub(super) fn allows(&mut self) -> bool {
        self.closed = self.levels().next().is_some() && self.wait(Instant::now()).is_some();
        !self.closed
    }

    /// Until whoever was told that it is closed is to ask again. It may have opened since, and then that
    /// is at once: nobody else says so.
    fn again(&self, now: Instant) -> Option<Duration> {
        let wait = self.wait(now).unwrap_or_default();
        self.closed.then_some(wait.max(AT_ONCE))
    }

    /// A packet of so many bytes goes.
    pub(super) fn spend(&mut self, bytes: usize) {
        for (level, tokens) in self.levels_for(1, bytes) {
            level.spend(tokens, Instant::now());
        }
    }

    /// Packets that were to go, and of so many bytes in all, do not.
    pub(super) fn give_back(&mut self, packets: usize, bytes: usize) {
        for (level, tokens) in self.levels_for(packets, bytes) {
            level.give_back(tokens);
        }
    }

    fn levels_for(
        &mut self,
        packets: usize,
        bytes: usize,
    ) -> impl Iterator<Item = (&mut Level, u64)> {
        let (packets, bytes) = (packets as u64, bytes as u64);
        let for_bytes = self.bytes.iter_mut().map(move |level| (level, bytes));
        for_bytes.chain(self.packets.iter_mut().map(move |level| (level, packets)))
    }
}

/// Both ways.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub rx: Limit,
    pub tx: Limit,
    /// Readable when packets may go again; there where anything is limited.
    pub timer: Option<OwnedFd>,
}

impl Limits {
    pub(super) fn new(rate: &NetRate) -> io::Result<Self> {
        let now = Instant::now();
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self {
            rx: Limit::new(rate.rx, now),
            tx: Limit::new(rate.tx, now),
            timer: Some(timerfd_create(TimerfdClockId::Monotonic, flags)?),
        })
    }

    /// Has the timer tell when a way that was closed opens.
    pub(super) fn arm(&self) -> io::Result<()> {
        let Some(timer) = &self.timer else {
            return Ok(());
        };
        let now = Instant::now();
        let waits = [self.rx.again(now), self.tx.again(now)];
        let Some(wait) = waits.into_iter().flatten().min() else {
            return Ok(());
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

/// Whether buckets like these can be filled.
pub(super) fn is_valid(rate: &NetRate) -> bool {
    let buckets = [rate.rx, rate.tx].map(|rate| [rate.bytes, rate.operations]);
    buckets
        .into_iter()
        .flatten()
        .flatten()
        .all(|bucket| bucket.size > 0 && (1..=MAX_REFILL_MS).contains(&bucket.refill_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn level(size: u64, refill_ms: u64) -> (Level, Instant) {
        let now = Instant::now();
        (Level::new(Bucket { size, refill_ms }, now), now)
    }

    #[test]
    fn what_it_holds_goes_at_once_and_the_rest_in_time() {
        let (mut level, start) = level(1000, 1000);
        for _ in 0..10 {
            assert_eq!(level.wait(start), None);
            level.spend(100, start);
        }
        // Empty, and one token comes in a millisecond.
        assert_eq!(level.wait(start), Some(Duration::from_millis(1)));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(level.wait(at(1)), None);
        // On credit.
        level.spend(301, at(1));
        assert_eq!(level.wait(at(1)), Some(Duration::from_millis(301)));
        level.give_back(200);
        assert_eq!(level.wait(at(101)), Some(Duration::from_millis(1)));
        assert_eq!(level.wait(at(102)), None);
        // It holds no more than it does, however long nothing went.
        level.spend(1000, at(1_000_000));
        assert!(level.wait(at(1_000_000)).is_some());
    }

    #[test]
    fn a_way_that_has_opened_meanwhile_is_told_of() {
        let rate = Rate {
            operations: Some(Bucket {
                size: 1,
                refill_ms: 1,
            }),
            ..Rate::default()
        };
        let both = NetRate { rx: rate, tx: rate };
        let mut limits = Limits::new(&both).unwrap();
        assert!(limits.tx.allows());
        limits.tx.spend(60);
        assert!(!limits.tx.allows());
        while limits.tx.wait(Instant::now()).is_some() {
            std::hint::spin_loop();
        }
        limits.arm().unwrap();
        let timer = limits.timer.as_ref().unwrap();
        let mut polled = [PollFd::new(timer, PollFlags::IN)];
        let deadline = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut polled, Some(&deadline)), Ok(1));
    }

    #[test]
    fn the_narrower_one_counts() {
        let rate = Rate {
            bytes: Some(Bucket::per_second(1_000_000)),
            operations: Some(Bucket::per_second(2)),
        };
        let mut limit = Limit::new(rate, Instant::now());
        assert!(limit.allows());
        limit.spend(1);
        limit.spend(1);
        assert!(!limit.allows());
        limit.give_back(1, 1);
        assert!(limit.allows());
        assert!(Limit::default().allows());
    }

    #[test]
    fn buckets_that_are_none() {
        let is = |size, refill_ms| {
            let bytes = Some(Bucket { size, refill_ms });
            let rx = Rate {
                bytes,
                ..Rate::default()
            };
            is_valid(&NetRate {
                rx,
                ..NetRate::default()
            })
        };
        assert!(is(1, 1) && is(u64::MAX, MAX_REFILL_MS));
        assert!(!is(0, 1) && !is(1, 0) && !is(1, MAX_REFILL_MS + 1));
    }

    proptest! {
        /// Whatever goes and whenever: never more than the bucket, the time's tokens and one packet's.
        #[test]
        fn never_more_than_the_rate(
            size in 1..1_000_000u64,
            refill_ms in 1..10_000u64,
            packets in proptest::collection::vec((0..65_550u64, 0..100_000u64), 0..100),
        ) {
            let (mut level, start) = level(size, refill_ms);
            let (mut now, mut gone) = (start, 0);
            for (tokens, pause_us) in packets {
                now += Duration::from_micros(pause_us);
                if level.wait(now).is_none() {
                    gone += u128::from(tokens);
                    level.spend(tokens, now);
                }
                let came = (now - start).as_nanos() * u128::from(size) / (u128::from(refill_ms) * 1_000_000);
                prop_assert!(gone <= u128::from(size) + came + 65_550);
            }
        }
    }
}
