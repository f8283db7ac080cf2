// SPDX-License-Identifier: Apache-2.0
//! A container in the machine of another one: its image is brought there, the rest is as ever.

use std::io::{BufWriter, Write};
use std::path::Path;

use walnut_archive::Packer;
use walnut_protocol::agent::{MountPoint, MountRequest};

use super::ground::{Ground, Site};
use super::life::{CREATE_TIMEOUT, Ended, Life};
use super::networking::Networking;
use super::output::Outputs;
use super::process::ProcessError;
use super::{Supervisor, SupervisorError};
use crate::container::InVm;
use crate::files::{Files, FilesError};
use crate::image::Image;
use crate::network::{Attachment, Mode, Session};
use crate::record::{Config, Registry, State};
use crate::run::signals::Signals;
use crate::run::timings::Timings;
use crate::storage::{BROUGHT, Layout, Places};
use crate::units::{MIB, human_size};
use crate::vm;

const BUFFER: usize = 256 << 10;

impl Supervisor<'_> {
    /// One run in the machine of `place`, which runs by itself.
    pub(super) fn live_in(
        &self,
        place: &InVm,
        outputs: &Outputs,
        signals: &Signals,
        timings: &mut Timings,
        begun: impl FnOnce(&Attachment),
    ) -> Result<Ended, SupervisorError> {
        let container = &self.config.container;
        let (host, state) = self.host(place)?;
        let name = host.name().to_owned();
        let vsock = container.vsock(self.paths);
        let agent = vm::agent(&vsock).map_err(|_| SupervisorError::HostEnded(name.clone()))?;
        let files = Files {
            agent: agent.clone(),
            vsock: vsock.clone(),
            container: &host.container,
        };
        let image = self.image.as_ref().filter(|_| !place.same_image);
        if let Some(image) = image {
            let brought = self.bring(image, place, &files, &name);
            brought.map_err(|error| match error {
                // It is about to go, or is gone.
                SupervisorError::Call(_)
                | SupervisorError::Files(
                    FilesError::Call(_) | FilesError::Process(ProcessError::Call(_)),
                ) => SupervisorError::HostEnded(name.clone()),
                error => error,
            })?;
        }
        timings.mark("image");
        let layout = Layout::in_vm(container, place);
        // What its files of /etc say is true of the network that it shares.
        let shares = container.network.mode == Mode::Container(place.host.clone());
        let network = Session::shared(match shares {
            true => state.network,
            false => Attachment::default(),
        });
        let network = Networking::new(network, self.paths).map_err(SupervisorError::Streams)?;
        let ground = Ground::Shared {
            agent,
            host: name,
            container_id: container.id.to_string(),
        };
        let site = Site { ground, vsock };
        let tty_size = self.tty_size;
        let life = Life::new(
            container,
            &layout,
            (site, network),
            outputs,
            signals,
            tty_size,
        )?;
        // The network is another one's.
        life.run(timings, |_| begun(&Attachment::default()))
    }

    /// The container whose machine it is, which must run.
    fn host(&self, place: &InVm) -> Result<(Config, State), SupervisorError> {
        let entry = Registry::new(self.paths).find(&place.host)?;
        let state = entry.state()?;
        let config = entry.config()?;
        match state.is_up() {
            true => Ok((config, state)),
            false => Err(SupervisorError::HostStopped(config.name().to_owned())),
        }
    }

    /// Copies the image into the machine's memory: no device is added to one that runs.
    fn bring(
        &self,
        image: &Image,
        place: &InVm,
        files: &Files<'_>,
        host: &str,
    ) -> Result<(), SupervisorError> {
        let failed = |source| SupervisorError::Bring {
            host: host.to_owned(),
            source,
        };
        let size = std::fs::metadata(&image.erofs).map_err(failed)?.len();
        let memory = u64::from(place.memory_mib) * MIB;
        if size > memory / 2 {
            return Err(SupervisorError::TooLarge {
                image: human_size(size),
                memory: human_size(memory),
                host: host.to_owned(),
            });
        }
        let target = Places::of(&self.config.container).brought();
        let mount = MountRequest {
            mounts: vec![MountPoint {
                type_: "ramfs".to_owned(),
                source: "ramfs".to_owned(),
                target: target.clone(),
                ..MountPoint::default()
            }],
            ..MountRequest::default()
        };
        files.agent.within(CREATE_TIMEOUT).mount(&mount)?;
        files.unpack_in_machine(Path::new(&target), |to| {
            let mut packer = Packer::new(BufWriter::with_capacity(BUFFER, to), false);
            packer.add(&image.erofs, Path::new(BROUGHT))?;
            packer.finish()?.flush().map_err(failed)
        })
    }
}
