//! Sessions with simulated containers, and connections into their sandboxes.

use std::net::Ipv4Addr;

use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use super::{SimCall, SimExec, SimRuntime};
use crate::runtime::{Error, ExecConfig, Stdin};
use crate::stdio::{Duplex, Reader, Session, Writer};

/// Bytes between a test and a stream.
const BUFFER: usize = 64 << 10;

impl SimRuntime {
    pub(super) async fn open_exec(&self, config: &ExecConfig) -> Result<Session, Error> {
        let args = config.process.args.clone();
        let SimExec { stdout, stderr, exit, takes } = {
            let mut state = self.lock();
            state.calls.push(SimCall::Exec(config.container.clone(), args.clone()));
            SimRuntime::running(&state, &config.container)?;
            state.execs.get(&args).cloned().unwrap_or_default()
        };
        let tty = config.process.tty;
        let (stdin, mut stdin_end) = tokio::io::duplex(BUFFER);
        let (stdout_end, stdout_reader) = tokio::io::duplex(BUFFER);
        let (stderr_end, stderr_reader) = tokio::io::duplex(BUFFER);
        let (sender, receiver) = oneshot::channel();
        let (resize, mut sizes) = mpsc::channel(1);
        tokio::spawn(async move { while sizes.recv().await.is_some() {} });
        // Input is taken and thrown away; the answer does not depend on it.
        tokio::spawn(async move { tokio::io::copy(&mut stdin_end, &mut tokio::io::sink()).await });
        tokio::spawn(async move {
            let (mut stdout_end, mut stderr_end) = (stdout_end, stderr_end);
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            // A session that is gone does not want to know.
            let _ = tokio::join!(stdout_end.write_all(&stdout), stderr_end.write_all(&stderr));
            let _ = sender.send(exit);
        });
        Ok(Session {
            stdin: config.stdin.then(|| Box::new(stdin) as Writer),
            stdout: (config.stdout || tty).then(|| Box::new(stdout_reader) as Reader),
            stderr: (config.stderr && !tty).then(|| Box::new(stderr_reader) as Reader),
            resize: tty.then_some(resize),
            exit: receiver,
        })
    }

    pub(super) async fn open_attach(
        &self,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session, Error> {
        let mut state = self.lock();
        state.calls.push(SimCall::Attach(container.into()));
        SimRuntime::running(&state, container)?;
        let Some(known) = state.containers.get_mut(container) else {
            return Err(Error::NoContainer(container.into()));
        };
        let (sender, exit) = oneshot::channel();
        known.attached.push(sender);
        let tty = known.config.process.tty;
        let stdin = stdin && known.config.stdin != Stdin::None;
        drop(state);
        // An echo: what goes in comes out.
        let (near, far) = tokio::io::duplex(BUFFER);
        let (reader, writer) = tokio::io::split(near);
        let (mut far_reader, mut far_writer) = tokio::io::split(far);
        tokio::spawn(async move { tokio::io::copy(&mut far_reader, &mut far_writer).await });
        let (resize, mut sizes) = mpsc::channel(1);
        tokio::spawn(async move { while sizes.recv().await.is_some() {} });
        Ok(Session {
            stdin: stdin.then(|| Box::new(writer) as Writer),
            stdout: stdout.then(|| Box::new(reader) as Reader),
            stderr: (stderr && !tty).then(|| Box::new(tokio::io::empty()) as Reader),
            resize: tty.then_some(resize),
            exit,
        })
    }

    pub(super) async fn open_dial(
        &self,
        sandbox: &str,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<Box<dyn Duplex>, Error> {
        let mut state = self.lock();
        state.calls.push(SimCall::Dial(sandbox.into(), address, port));
        if !state.sandboxes.contains_key(sandbox) {
            return Err(Error::NoSandbox(sandbox.into()));
        }
        let (near, far) = tokio::io::duplex(BUFFER);
        let taken = state
            .listeners
            .get(&(sandbox.to_owned(), port))
            .is_some_and(|listener| listener.send(far).is_ok());
        match taken {
            true => Ok(Box::new(near)),
            false => Err(Error::Host {
                what: format!("connecting to {address}:{port} in sandbox {sandbox}"),
                source: std::io::ErrorKind::ConnectionRefused.into(),
            }),
        }
    }
}
