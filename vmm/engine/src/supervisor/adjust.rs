// SPDX-License-Identifier: Apache-2.0
//! What can be changed of a container that runs: the size of its terminal, its limits.

use walnut_protocol::agent::{ResizePtyRequest, UpdateRequest};
use walnut_protocol::chain;

use super::shared::Shared;

impl Shared {
    pub fn resize(&self, width: u32, height: u32) -> Result<(), String> {
        let request = ResizePtyRequest {
            container_id: self.container_id.clone(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        let resized = self.agent()?.resize_pty(&request);
        resized.map(drop).map_err(|e| chain(&e))
    }

    pub fn update_limits(&self, resources: &str) -> Result<(), String> {
        let _machine_runs = self.checkpointing();
        let request = UpdateRequest {
            container_id: self.container_id.clone(),
            resources: resources.as_bytes().to_vec(),
            ..UpdateRequest::default()
        };
        let updated = self.agent()?.update(&request);
        updated.map(drop).map_err(|e| chain(&e))
    }
}
