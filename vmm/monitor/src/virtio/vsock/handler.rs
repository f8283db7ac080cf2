// SPDX-License-Identifier: Apache-2.0
//! The device while its driver is ready: moves packets between the queues and the connections.

use std::io;

use serde::{Deserialize, Serialize};
use vm_memory::Bytes;

use super::muxer::{Muxer, MuxerState, Next};
use super::packet::{Buffer, HEADER_LEN_U32, Packet, truncate};
use super::{EVENT, RX, TX};
use crate::virtio::queue::Ring;
use crate::virtio::{ActivateError, DeviceState, QueueError, QueueHandler, VirtQueue};

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (§5.10.6.7): `struct virtio_vsock_event`.
const TRANSPORT_RESET: u32 = 0;
const EVENT_LEN: u32 = 4;

/// What outlives the process. The sockets at the connections' ends are not ours to save: others come
/// in their place.
#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct State {
    guest_cid: u64,
    /// The guest must be told that its connections are gone.
    transport_reset: bool,
    #[serde(default)]
    muxer: MuxerState,
}

pub(super) struct VsockHandler {
    queues: Vec<VirtQueue>,
    pub(super) muxer: Muxer,
    guest_cid: u64,
    /// Host ports of connections to be taken up after a restore.
    resumed: Vec<u32>,
    transport_reset: bool,
    /// Packets were left on the tx queue for want of room for the answers.
    tx_waits: bool,
}

impl VsockHandler {
    pub(super) fn new(
        queues: Vec<VirtQueue>,
        muxer: Muxer,
        guest_cid: u64,
        resumed: Vec<u32>,
    ) -> Self {
        Self {
            queues,
            muxer,
            guest_cid,
            resumed,
            transport_reset: false,
            tx_waits: false,
        }
    }

    /// Sends the guest what there is for it, and goes on with the tx queue where it had to stop.
    fn serve(&mut self) -> Result<(), QueueError> {
        self.serve_rx()?;
        if self.tx_waits && self.muxer.has_room() {
            self.serve_tx()?;
            self.serve_rx()?;
            if let Some(queue) = self.queues.get(TX)
                && self.tx_waits
                && self.muxer.has_room()
            {
                queue.wake()?;
            }
        }
        Ok(())
    }

    /// Takes the guest's packets, as long as there is room for the answers.
    fn serve_tx(&mut self) -> Result<(), QueueError> {
        let (muxer, waits) = (&mut self.muxer, &mut self.tx_waits);
        let Some(queue) = self.queues.get_mut(TX) else {
            return Ok(());
        };
        *waits = false;
        queue.serve_while(|memory, chain| {
            if !muxer.has_room() {
                *waits = true;
                return None;
            }
            match Packet::parse(memory, chain) {
                Ok(packet) => muxer.receive(&packet),
                Err(error) => log::debug!("vsock: a packet was dropped: {error}"),
            }
            Some(0)
        })
    }

    /// Fills rx buffers while there are some and there is something to put in.
    fn serve_rx(&mut self) -> Result<(), QueueError> {
        let Some(queue) = self.queues.get_mut(RX) else {
            return Ok(());
        };
        let mut ring = queue.ring();
        while self.muxer.has_work() {
            let Some(buffer) = take_buffer(&mut ring)? else {
                break;
            };
            match self.muxer.next() {
                None => ring.put_back(1),
                Some(Next::Packet(header)) => {
                    buffer.write_header(header);
                    ring.complete(buffer.head_index, HEADER_LEN_U32)?;
                }
                Some(Next::Data {
                    token,
                    credit,
                    buffers,
                }) => fill(&mut self.muxer, &mut ring, buffer, token, credit, buffers)?,
            }
        }
        ring.finish()
    }

    fn serve_event(&mut self) -> Result<(), QueueError> {
        let owed = &mut self.transport_reset;
        let Some(queue) = self.queues.get_mut(EVENT) else {
            return Ok(());
        };
        queue.serve_while(|memory, mut chain| {
            if !*owed {
                return None;
            }
            let fits = chain.next().is_some_and(|desc| {
                desc.is_write_only()
                    && memory
                        .write_slice(&TRANSPORT_RESET.to_le_bytes(), desc.addr())
                        .is_ok()
            });
            *owed = !fits;
            Some(if fits { EVENT_LEN } else { 0 })
        })
    }
}

/// The next rx buffer that can hold a packet.
fn take_buffer<'a>(ring: &mut Ring<'a>) -> Result<Option<Buffer<'a>>, QueueError> {
    while let Some(chain) = ring.take()? {
        let head = chain.head_index();
        match Buffer::parse(ring.memory(), chain) {
            Ok(buffer) => return Ok(Some(buffer)),
            Err(error) => {
                log::debug!("vsock: an rx buffer was returned: {error}");
                ring.complete(head, 0)?;
            }
        }
    }
    Ok(None)
}

/// Reads a connection's socket into several rx buffers at once, and returns those that were filled.
fn fill<'a>(
    muxer: &mut Muxer,
    ring: &mut Ring<'a>,
    first: Buffer<'a>,
    token: u64,
    credit: usize,
    buffers: usize,
) -> Result<(), QueueError> {
    let mut room = first.room;
    let mut taken = vec![first];
    while taken.len() < buffers && room < credit {
        let Some(chain) = ring.take()? else { break };
        let Ok(buffer) = Buffer::parse(ring.memory(), chain) else {
            // Its turn comes when it is the first.
            ring.put_back(1);
            break;
        };
        room += buffer.room;
        taken.push(buffer);
    }
    let mut slices: Vec<_> = taken
        .iter_mut()
        .flat_map(|buffer| std::mem::take(&mut buffer.data))
        .collect();
    truncate(&mut slices, credit);
    let mut rest = muxer.read(token, &slices);
    let mut unused = taken.len();
    for buffer in &taken {
        let len = buffer.room.min(rest);
        let Ok(wire_len) = u32::try_from(len) else {
            break;
        };
        if len == 0 {
            break;
        }
        if let Some(header) = muxer.data_header(token, wire_len) {
            buffer.write_header(header);
        }
        ring.complete(buffer.head_index, HEADER_LEN_U32 + wire_len)?;
        rest -= len;
        unused -= 1;
    }
    ring.put_back(unused);
    Ok(())
}

impl QueueHandler for VsockHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        match index {
            EVENT => self.serve_event(),
            TX => {
                self.serve_tx()?;
                self.serve()
            }
            _ => self.serve(),
        }
    }

    fn event_ready(&mut self) -> Result<(), QueueError> {
        self.muxer.poll().map_err(QueueError::Events)?;
        self.serve()
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    fn save(&self) -> io::Result<DeviceState> {
        let state = State {
            guest_cid: self.guest_cid,
            transport_reset: self.transport_reset,
            muxer: self.muxer.save(),
        };
        Ok(serde_json::to_value(state)?)
    }

    fn restore(&mut self, state: DeviceState) -> Result<(), ActivateError> {
        let state: State = serde_json::from_value(state)
            .map_err(|error| ActivateError::State(error.to_string()))?;
        // The event also makes the driver read its CID again.
        self.transport_reset = state.transport_reset || state.guest_cid != self.guest_cid;
        if !self.transport_reset {
            self.muxer.restore(state.muxer, &self.resumed);
        }
        Ok(())
    }
}
