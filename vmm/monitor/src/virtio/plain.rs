// SPDX-License-Identifier: Apache-2.0
//! The handler of a device that answers each request by itself, on any of its queues, and keeps
//! nothing between them.

use virtio_queue::DescriptorChain;

use super::{Activation, QueueError, QueueHandler, VirtQueue};
use crate::memory::GuestMemory;

/// Executes one request; how many bytes of its buffers were written.
pub type Serve = fn(&GuestMemory, DescriptorChain<&GuestMemory>) -> u32;

pub struct PlainHandler {
    queues: Vec<VirtQueue>,
    serve: Serve,
}

impl PlainHandler {
    pub fn boxed(activation: Activation, serve: Serve) -> Box<dyn QueueHandler> {
        Box::new(Self {
            queues: activation.queues,
            serve,
        })
    }
}

impl QueueHandler for PlainHandler {
    fn queue_ready(&mut self, index: usize) -> Result<(), QueueError> {
        let serve = self.serve;
        self.queues
            .get_mut(index)
            .map_or(Ok(()), |queue| queue.serve(serve))
    }

    fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }
}
