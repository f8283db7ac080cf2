// SPDX-License-Identifier: Apache-2.0
//! Saving and restoring a device: its registers here, its queues and the rest from its handler.

use std::sync::MutexGuard;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{MmioTransport, TRANSPORT_FEATURES};
use crate::virtio::queue::QueueState;
use crate::virtio::registers::{CONFIG_GENERATION, INTERRUPT_STATUS, STATUS, STATUS_FEATURES_OK};
use crate::virtio::{ActivateError, DeviceState, QueueHandler};

/// Everything the driver can see of a device but its configuration space, which is the device's own.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct TransportState {
    pub device_type: u32,
    pub status: u32,
    pub interrupt_status: u32,
    pub queue_sel: u32,
    pub device_features_sel: u32,
    pub driver_features_sel: u32,
    pub driver_features: u64,
    pub config_generation: u32,
    pub queues: Vec<QueueState>,
    /// A driver runs the device, and `device` is what that device keeps.
    pub active: bool,
    #[serde(with = "text")]
    pub device: DeviceState,
}

/// A document within one that does not describe itself.
mod text {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::virtio::DeviceState;

    pub(super) fn serialize<S: Serializer>(
        state: &DeviceState,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(state).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DeviceState, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}

#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("the saved device is of type {saved}, this one of type {here}")]
    DeviceType { saved: u32, here: u32 },
    #[error("the saved device has {saved} queues, this one {here}")]
    Queues { saved: usize, here: usize },
    #[error("the saved device had features {0:#x} that this one lacks")]
    Features(u64),
    #[error("saved queue {index} is not valid")]
    Queue {
        index: usize,
        source: virtio_queue::Error,
    },
    #[error("cannot activate the device")]
    Activate(#[from] ActivateError),
    #[error("cannot wake the device's queues")]
    Wake(#[source] std::io::Error),
}

#[derive(Debug, Error)]
pub enum FreezeError {
    #[error("cannot ask a device's thread for its state")]
    Ask(#[source] std::io::Error),
    #[error("{device} does not say within {}s what it keeps", PATIENCE.as_secs())]
    NoAnswer { device: String },
    #[error("{device} cannot say what it keeps")]
    Save {
        device: String,
        source: std::io::Error,
    },
}

/// Time for a device's thread to say what it keeps: a shared directory is walked through for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device that serves nothing while this lives. No vCPU runs, or it would wait for this.
pub struct Frozen<'a> {
    transport: &'a MmioTransport,
    handler: MutexGuard<'a, Option<Box<dyn QueueHandler>>>,
    /// What its thread has said.
    saved: Option<DeviceState>,
}

impl Frozen<'_> {
    pub fn save(&self) -> Result<TransportState, FreezeError> {
        let transport = self.transport;
        let device = match (&self.saved, self.handler.as_ref()) {
            (Some(saved), _) => saved.clone(),
            (None, Some(handler)) => handler
                .save()
                .map_err(|source| transport.cannot_save(source))?,
            (None, None) => DeviceState::Null,
        };
        let queues = match self.handler.as_ref() {
            Some(handler) => handler.queues().iter().map(|queue| queue.state()).collect(),
            None => transport.queues.iter().map(QueueState::of).collect(),
        };
        Ok(TransportState {
            device_type: transport.device.device_type(),
            status: transport.registers.get(STATUS),
            interrupt_status: transport.registers.get(INTERRUPT_STATUS),
            queue_sel: transport.queue_sel,
            device_features_sel: transport.device_features_sel,
            driver_features_sel: transport.driver_features_sel,
            driver_features: transport.driver_features,
            config_generation: transport.registers.get(CONFIG_GENERATION),
            queues,
            active: self.handler.is_some(),
            device,
        })
    }
}

impl MmioTransport {
    /// A request in flight is waited for. Its thread must run.
    pub fn freeze(&self) -> Result<Frozen<'_>, FreezeError> {
        let asked = self.shared.ask_for_state().map_err(FreezeError::Ask)?;
        let Some(state) = asked else {
            return Ok(self.freeze_here());
        };
        let no_answer = |_| FreezeError::NoAnswer {
            device: self.name.clone(),
        };
        let saved = state.recv_timeout(PATIENCE).map_err(no_answer)?;
        Ok(Frozen {
            saved: Some(saved.map_err(|source| self.cannot_save(source))?),
            ..self.freeze_here()
        })
    }

    fn cannot_save(&self, source: std::io::Error) -> FreezeError {
        let device = self.name.clone();
        FreezeError::Save { device, source }
    }

    /// As [`Self::freeze`], of a device that any thread can save.
    pub fn freeze_here(&self) -> Frozen<'_> {
        Frozen {
            transport: self,
            handler: self.shared.handler(),
            saved: None,
        }
    }

    /// Puts a device that was just made into the state that [`MmioTransport::save`] saw.
    pub fn restore(&mut self, state: TransportState) -> Result<(), RestoreError> {
        let here = self.device.device_type();
        if state.device_type != here {
            return Err(RestoreError::DeviceType {
                saved: state.device_type,
                here,
            });
        }
        if state.queues.len() != self.queues.len() {
            let (saved, here) = (state.queues.len(), self.queues.len());
            return Err(RestoreError::Queues { saved, here });
        }
        let lacking = state.driver_features & !(self.device.features() | TRANSPORT_FEATURES);
        // Before FEATURES_OK a driver may have written anything.
        if lacking != 0 && state.status & STATUS_FEATURES_OK != 0 {
            return Err(RestoreError::Features(lacking));
        }
        self.queues = (0..)
            .zip(&state.queues)
            .map(|(index, queue)| {
                queue
                    .restore()
                    .map_err(|source| RestoreError::Queue { index, source })
            })
            .collect::<Result<_, _>>()?;
        self.queue_sel = state.queue_sel;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.driver_features = state.driver_features;
        self.registers
            .set(CONFIG_GENERATION, state.config_generation);
        self.registers.set(INTERRUPT_STATUS, state.interrupt_status);
        self.registers.set(STATUS, state.status);
        if state.active {
            self.try_activate(Some(state.device))?;
            // Kicks that were on their way when the state was saved are not part of it.
            for kick in &self.kicks {
                kick.write(1).map_err(RestoreError::Wake)?;
            }
        }
        self.show();
        // Nor are interrupts that were on their way. One too many finds nothing to do.
        if state.interrupt_status != 0 {
            self.shared.interrupt.raise().map_err(RestoreError::Wake)?;
        }
        Ok(())
    }
}
