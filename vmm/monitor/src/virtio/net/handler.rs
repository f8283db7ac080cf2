// SPDX-License-Identifier: Apache-2.0
//! The device while its driver is ready: moves packets between the queues and the backend.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::backend::Backend;
use super::chain::{self, Slice};
use super::limit::Limit;
use super::{F_MRG_RXBUF, HEADER_LEN, Link, NUM_BUFFERS, RX, TX, hold};
use crate::virtio::queue::Ring;
use crate::virtio::{
    ActivateError, Activation, DeviceState, Interrupt, QueueError, QueueHandler, VirtQueue,
};

/// Packets that are given to the backend at once.
const BATCH: usize = 16;

/// Buffers that Linux's driver has a packet in, at most.
const MANY: usize = 19;

/// What has more bytes is part of a stream: its driver has other buffers, and more to send.
const A_FEW: usize = 4096;

pub(super) struct NetHandler {
    queues: Vec<VirtQueue>,
    link: Arc<Link>,
    mergeable: bool,
    interrupt: Interrupt,
    /// The backend takes no more for now.
    blocked: bool,
}

/// Why serving stopped.
enum Stop {
    Queue(QueueError),
    Backend(io::Error),
}

impl From<QueueError> for Stop {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Backend(error)
    }
}

impl NetHandler {
    pub(super) fn new(activation: Activation, link: Arc<Link>) -> io::Result<Self> {
        if link.up.load(Ordering::SeqCst) {
            let mut backend = hold(&link.backend);
            backend.negotiated(activation.features)?;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&link.epoll, backend.fd(), EventData::new_u64(0), flags)?;
            if let Some(timer) = &hold(&link.limits).timer {
                let flags = EventFlags::IN | EventFlags::ET;
                epoll::add(&link.epoll, timer, EventData::new_u64(1), flags)?;
            }
        }
        Ok(Self {
            queues: activation.queues,
            link,
            mergeable: activation.features & F_MRG_RXBUF != 0,
            interrupt: activation.interrupt,
            blocked: false,
        })
    }

    fn serve_rx(&mut self) -> Result<(), QueueError> {
        let Some(queue) = self.queues.get_mut(RX) else {
            return Ok(());
        };
        if !self.link.up.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut ring = queue.ring();
        let mut room = Room {
            buffers: Vec::new(),
            slices: Vec::new(),
            len: 0,
            most_buffers: if self.mergeable { usize::MAX } else { 1 },
        };
        let mut limits = hold(&self.link.limits);
        let mut backend = hold(&self.link.backend);
        let stop = receive(&mut **backend, &mut ring, &mut room, &mut limits.rx);
        drop(backend);
        ring.put_back(room.buffers.len());
        ring.finish()?;
        limits.arm().map_err(QueueError::Events)?;
        drop(limits);
        self.after(stop)
    }

    fn serve_tx(&mut self) -> Result<(), QueueError> {
        let Some(queue) = self.queues.get_mut(TX) else {
            return Ok(());
        };
        let up = self.link.up.load(Ordering::SeqCst);
        if self.blocked && up {
            return Ok(());
        }
        let mut ring = queue.ring();
        let mut limits = hold(&self.link.limits);
        // Of what nobody gets, there is nothing to limit.
        let limit = up.then_some(&mut limits.tx);
        let sent = send(&mut **hold(&self.link.backend), limit, &mut ring);
        match &sent {
            Ok(sent) if sent.bytes > A_FEW => ring.finish_soon()?,
            _ => ring.finish()?,
        }
        limits.arm().map_err(QueueError::Events)?;
        drop(limits);
        let stop = sent.map(|sent| self.blocked = sent.blocked);
        self.after(stop)
    }

    /// A backend that failed is gone: the link goes down, the guest goes on.
    fn after(&mut self, stop: Result<(), Stop>) -> Result<(), QueueError> {
        match stop {
            Ok(()) => Ok(()),
            Err(Stop::Queue(error)) => Err(error),
            Err(Stop::Backend(error)) => {
                log::warn!(
                    "net: the link is down: the network's other end (passt, its switch or the tap) is \
                     gone ({error}); the container goes on without it, and has it again when restarted"
                );
                self.link.up.store(false, Ordering::SeqCst);
                self.blocked = false;
                self.unwatch();
                self.interrupt.change_config(&self.link.config())?;
                // What the guest has sent meanwhile is lost, but not waiting.
                self.queues.get(TX).map_or(Ok(()), VirtQueue::wake)
            }
        }
    }

    fn unwatch(&self) {
        // Fails only where it is not watched.
        let _ = epoll::delete(&self.link.epoll, hold(&self.link.backend).fd());
        if let Some(timer) = &hold(&self.link.limits).timer {
            let _ = epoll::delete(&self.link.epoll, timer);
        }
    }
}

impl Drop for NetHandler {
    fn drop(&mut self) {
        self.unwatch();
    }
}

impl QueueHandler for NetHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        match index {
            TX => {
                self.serve_tx()?;
                let answered = hold(&self.link.backend).has_own();
                if answered { self.serve_rx() } else { Ok(()) }
            }
            _ => self.serve_rx(),
        }
    }

    fn event_ready(&mut self) -> Result<(), QueueError> {
        if !self.link.up.load(Ordering::SeqCst) {
            return Ok(());
        }
        let flushed = hold(&self.link.backend).flush();
        let limited = hold(&self.link.limits).timer.is_some();
        match flushed {
            Err(error) => self.after(Err(error.into()))?,
            Ok(true) if std::mem::take(&mut self.blocked) || limited => self.serve_tx()?,
            Ok(_) => {}
        }
        self.serve_rx()
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    /// Whether the driver has been told that the link is up.
    fn save(&self) -> io::Result<DeviceState> {
        Ok(DeviceState::Bool(self.link.up.load(Ordering::SeqCst)))
    }

    fn restore(&mut self, state: DeviceState) -> Result<(), ActivateError> {
        let was_up = state.as_bool().unwrap_or(true);
        if was_up == self.link.up.load(Ordering::SeqCst) {
            return Ok(());
        }
        let told = self.interrupt.change_config(&self.link.config());
        told.map_err(|error| ActivateError::State(error.to_string()))
    }
}

/// rx buffers that were taken, and hold no packet yet.
struct Room<'a> {
    buffers: Vec<Buffer>,
    /// Theirs, one after the other.
    slices: Vec<Slice<'a>>,
    len: usize,
    /// That make one packet's buffer.
    most_buffers: usize,
}

struct Buffer {
    head: u16,
    slices: usize,
    len: usize,
}

impl<'a> Room<'a> {
    /// Takes buffers until they hold `wanted` bytes; whether they do.
    fn grow(&mut self, ring: &mut Ring<'a>, wanted: usize) -> Result<bool, QueueError> {
        while self.len < wanted && self.buffers.len() < self.most_buffers {
            let Some(chain) = ring.take()? else { break };
            let (head, before) = (chain.head_index(), self.slices.len());
            match chain::room(ring.memory(), chain, &mut self.slices) {
                Ok(len) => {
                    let slices = self.slices.len() - before;
                    self.buffers.push(Buffer { head, slices, len });
                    self.len += len;
                }
                Err(error) => {
                    // In the order in which they were taken: those before it stay the driver's.
                    log::debug!("net: an rx buffer was returned: {error}");
                    if self.buffers.is_empty() {
                        ring.complete(head, 0)?;
                    } else {
                        ring.put_back(1);
                        break;
                    }
                }
            }
        }
        Ok(self.len >= wanted)
    }

    /// The driver has given all that it can.
    fn is_all(&self, ring: &Ring<'_>) -> bool {
        self.buffers.len() >= self.most_buffers.min(usize::from(ring.size()))
    }

    /// Returns the first buffers, which hold a packet of `len` bytes now.
    fn complete(&mut self, ring: &mut Ring<'a>, len: usize) -> Result<(), QueueError> {
        let (mut used, mut slices, mut rest) = (Vec::new(), 0, len);
        for buffer in &self.buffers {
            if rest == 0 {
                break;
            }
            let filled = buffer.len.min(rest);
            rest -= filled;
            slices += buffer.slices;
            self.len -= buffer.len;
            used.push((buffer.head, u32::try_from(filled).unwrap_or(u32::MAX)));
        }
        let count = u16::try_from(used.len()).unwrap_or(u16::MAX);
        chain::write(&self.slices, NUM_BUFFERS, &count.to_le_bytes());
        ring.complete_all(&used)?;
        self.buffers.drain(..used.len());
        self.slices.drain(..slices);
        Ok(())
    }
}

/// Fills rx buffers while there are some and there is something to put in.
fn receive<'a>(
    backend: &mut dyn Backend,
    ring: &mut Ring<'a>,
    room: &mut Room<'a>,
    limit: &mut Limit,
) -> Result<(), Stop> {
    while limit.allows()
        && let Some(most) = backend.most()?
    {
        if !room.grow(ring, most)? {
            if room.buffers.is_empty() {
                break;
            }
            // Perhaps it is a small one.
            match backend.fetch()? {
                Some(len) if len <= room.len => {}
                Some(len) if room.is_all(ring) => {
                    log::debug!("net: no buffer of the driver's holds {len} bytes");
                    backend.discard();
                    if !ring.goes_on()? {
                        break;
                    }
                    continue;
                }
                _ => break,
            }
        }
        match backend.receive(&room.slices)? {
            Some(len) if len >= HEADER_LEN => {
                limit.spend(len - HEADER_LEN);
                room.complete(ring, len)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

/// What a backend has taken.
struct Sent {
    bytes: usize,
    /// It takes no more for now.
    blocked: bool,
}

/// Gives the driver's packets to the backend, as fast as the limit lets them go; without one, to
/// nobody.
fn send(
    backend: &mut dyn Backend,
    mut limit: Option<&mut Limit>,
    ring: &mut Ring<'_>,
) -> Result<Sent, Stop> {
    let mut bytes = 0;
    loop {
        let (mut heads, mut packets) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        while heads.len() < BATCH && limit.as_mut().is_none_or(|limit| limit.allows()) {
            let Some(chain) = ring.take()? else { break };
            heads.push(chain.head_index());
            let mut packet = Vec::with_capacity(MANY);
            if let Err(error) = chain::packet(ring.memory(), chain, &mut packet) {
                log::debug!("net: a packet was dropped: {error}");
            }
            packets.push(packet);
            if let (Some(limit), Some(packet)) = (&mut limit, packets.last()) {
                limit.spend(frame_len(packet));
            }
        }
        let sent = match limit {
            Some(_) => backend.send(&packets),
            None => Ok(packets.len()),
        };
        // When it failed, all of them are lost.
        let done = sent.as_ref().map_or(heads.len(), |done| *done);
        for &head in &heads[..done] {
            ring.complete(head, 0)?;
        }
        let gone = packets[..done].iter();
        bytes += gone.map(|one| frame_len(one)).sum::<usize>();
        ring.put_back(heads.len() - done);
        if let Some(limit) = &mut limit {
            let left = &packets[done..];
            limit.give_back(left.len(), left.iter().map(|one| frame_len(one)).sum());
        }
        sent?;
        let blocked = done < heads.len();
        if blocked || heads.len() < BATCH {
            return Ok(Sent { bytes, blocked });
        }
    }
}

fn frame_len(packet: &[Slice<'_>]) -> usize {
    let len: usize = packet.iter().map(|slice| slice.len()).sum();
    len.saturating_sub(HEADER_LEN)
}
