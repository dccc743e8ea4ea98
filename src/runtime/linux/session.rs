//! Sessions with processes: an exec's pipes or terminal, an attached container's frames.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::supervisor::Answer;
use super::terminal::Terminal;
use crate::runtime::protocol::{self, Frame};
use crate::runtime::{Error, ExecConfig};
use crate::stdio::{Exit, Reader, Session, WindowSize, Writer};

/// Bytes between the connection and a reader.
const BUFFER: usize = 64 << 10;
/// Window sizes that wait; only the newest matters.
const SIZES: usize = 8;

/// The daemon's ends of an exec's pipes; all absent with a terminal.
#[derive(Debug, Default)]
pub struct Streams {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Streams {
    /// Makes the pipes that are asked for: the daemon's ends, and the process's in the order of the protocol.
    pub fn open(config: &ExecConfig) -> io::Result<(Streams, Vec<OwnedFd>)> {
        let (mut streams, mut given) = (Streams::default(), Vec::new());
        if config.process.tty {
            return Ok((streams, given));
        }
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        if config.stdin {
            let (theirs, ours) = pipe()?;
            given.push(theirs);
            streams.stdin = Some(pipe::Sender::from_owned_fd(ours)?);
        }
        for (wanted, stream) in [(config.stdout, &mut streams.stdout), (config.stderr, &mut streams.stderr)] {
            if wanted {
                let (ours, theirs) = pipe()?;
                given.push(theirs);
                *stream = Some(pipe::Receiver::from_owned_fd(ours)?);
            }
        }
        Ok((streams, given))
    }

    /// The session of a process that runs.
    pub fn session(self, config: &ExecConfig, answer: Answer) -> Result<Session, Error> {
        let host = |source| Error::Host {
            what: format!("talking to an exec in container {}", config.container),
            source,
        };
        let Answer { descriptors, connection, rest, .. } = answer;
        let exit = exit_of(connection, rest).map_err(host)?;
        let Some(master) = descriptors.into_iter().next() else {
            return Ok(Session {
                stdin: self.stdin.map(|stdin| Box::new(stdin) as Writer),
                stdout: self.stdout.map(|stdout| Box::new(stdout) as Reader),
                stderr: self.stderr.map(|stderr| Box::new(stderr) as Reader),
                resize: None,
                exit,
            });
        };
        let output = Terminal::new(master).map_err(host)?;
        let input = config.stdin.then(|| output.try_clone()).transpose().map_err(host)?;
        let window = output.try_clone().map_err(host)?;
        let (resize, mut sizes) = mpsc::channel(SIZES);
        // Ends, and lets go of the terminal, when the session is dropped.
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                // A terminal that has just gone needs no size.
                let _ = window.resize(size);
            }
        });
        Ok(Session {
            stdin: input.map(|input| Box::new(input) as Writer),
            stdout: Some(Box::new(output)),
            stderr: None,
            resize: Some(resize),
            exit,
        })
    }
}

/// Resolves when the supervisor tells how the process ended.
fn exit_of(connection: StdUnixStream, mut rest: Vec<u8>) -> io::Result<oneshot::Receiver<Exit>> {
    connection.set_nonblocking(true)?;
    let mut connection = UnixStream::from_std(connection)?;
    let (mut sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        loop {
            match protocol::decode::<Exit>(&mut rest) {
                // A receiver that is gone does not want to know.
                Ok(Some(exit)) => {
                    let _ = sender.send(exit);
                    return;
                }
                Ok(None) => {}
                Err(_) => return,
            }
            tokio::select! {
                read = connection.read_buf(&mut rest) => match read {
                    Ok(count) if count > 0 => {}
                    // Dropping the sender says that the end cannot be learned.
                    _ => return,
                },
                // The session is dropped: so is the connection.
                () = sender.closed() => return,
            }
        }
    });
    Ok(receiver)
}

/// The session of a client that joins a container's streams.
pub fn attached(
    connection: StdUnixStream,
    rest: Vec<u8>,
    tty: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
) -> Result<Session, Error> {
    let host = |source| Error::Host { what: "attaching".into(), source };
    connection.set_nonblocking(true).map_err(host)?;
    let (reader, writer) = UnixStream::from_std(connection).map_err(host)?.into_split();
    let channel = |wanted: bool| wanted.then(|| tokio::io::duplex(BUFFER)).unzip();
    let (input, input_end) = channel(stdin);
    let (output, output_end) = channel(stdout || (tty && stderr));
    let (errors, errors_end) = channel(stderr && !tty);
    let (exit, exit_receiver) = oneshot::channel();
    let (resize, sizes) = if tty { Some(mpsc::channel(SIZES)) } else { None }.unzip();
    tokio::spawn(receive(reader, rest, output_end, errors_end, exit));
    tokio::spawn(send(writer, input_end, sizes));
    Ok(Session {
        stdin: input.map(|input| Box::new(input) as Writer),
        stdout: output.map(|output| Box::new(output) as Reader),
        stderr: errors.map(|errors| Box::new(errors) as Reader),
        resize,
        exit: exit_receiver,
    })
}

/// Hands frames to the session's readers until the container ends or the session is dropped.
async fn receive(
    mut connection: OwnedReadHalf,
    mut buffer: Vec<u8>,
    mut output: Option<DuplexStream>,
    mut errors: Option<DuplexStream>,
    mut exit: oneshot::Sender<Exit>,
) {
    loop {
        let frame = match Frame::decode(&mut buffer) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                tokio::select! {
                    read = connection.read_buf(&mut buffer) => match read {
                        Ok(count) if count > 0 => continue,
                        _ => return,
                    },
                    // All of the session may be dropped while the container is silent.
                    () = exit.closed() => return,
                }
            }
            Err(_) => return,
        };
        let (sink, bytes) = match frame {
            Frame::Output(bytes) => (&mut output, bytes),
            Frame::ErrorOutput(bytes) => (&mut errors, bytes),
            Frame::Exit(Some(how)) => {
                // A receiver that is gone does not want to know.
                let _ = exit.send(how);
                return;
            }
            Frame::Exit(None) => return,
            Frame::Input(_) | Frame::InputEnd | Frame::Resize(_) => return,
        };
        if let Some(stream) = sink
            && stream.write_all(&bytes).await.is_err()
        {
            // That reader was dropped; the other may go on.
            *sink = None;
        }
    }
}

/// Hands the session's input and window sizes to the container until both have ended.
async fn send(
    mut connection: OwnedWriteHalf,
    mut input: Option<DuplexStream>,
    mut sizes: Option<mpsc::Receiver<WindowSize>>,
) {
    let mut bytes = vec![0; BUFFER];
    while input.is_some() || sizes.is_some() {
        let frame = tokio::select! {
            read = read_input(&mut input, &mut bytes) => match read {
                Ok(count) if count > 0 => Frame::Input(bytes[..count].to_vec()),
                _ => { input = None; Frame::InputEnd }
            },
            size = next_size(&mut sizes) => match size {
                Some(size) => Frame::Resize(size),
                None => { sizes = None; continue }
            },
        };
        if connection.write_all(&frame.encode()).await.is_err() {
            return;
        }
    }
    // Only this direction ends: the output goes on.
    connection.forget();
}

async fn read_input(input: &mut Option<DuplexStream>, bytes: &mut [u8]) -> io::Result<usize> {
    match input {
        Some(input) => input.read(bytes).await,
        None => std::future::pending().await,
    }
}

async fn next_size(sizes: &mut Option<mpsc::Receiver<WindowSize>>) -> Option<WindowSize> {
    match sizes {
        Some(sizes) => sizes.recv().await,
        None => std::future::pending().await,
    }
}
