//! The server under test, and the client that speaks to it by hand.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::{Handle, InstanceId, RequestId};
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::frames::{self, Traffic};
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Header, Kind, Sender};
use lacuna_transport::wire::map_page::MapPage;
use lacuna_transport::wire::message::{
    self, Features, Hello, MapRequest, Message, OpenRequest, Opened, PathRequest, Welcome,
};
use lacuna_transport::wire::read::ReadRequest;
use lacuna_transport::wire::write::WriteRequest;
use minicbor::{Decode, Encode};
use quinn::{RecvStream, SendStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::*;
use crate::backend::fault::{Call, Fault, Faulty, Plan};
use crate::backend::sparse_file::SparseFiles;

/// A server on a folder and a state of its own.
pub(super) struct Bed {
    pub(super) folder: tempfile::TempDir,
    pub(super) state: tempfile::TempDir,
    pub(super) server: Arc<Server>,
    pub(super) address: SocketAddr,
    pub(super) key: KeyId,
    pub(super) stop: Option<oneshot::Sender<()>>,
    pub(super) running: JoinHandle<Result<()>>,
}

impl Bed {
    pub(super) fn start() -> Self {
        Self::start_on(|folder| Arc::new(SparseFiles::new(folder).unwrap()))
    }

    pub(super) fn start_on(backend: impl FnOnce(&std::path::Path) -> Arc<dyn Backend>) -> Self {
        Self::start_with(backend, false, Bounds::default())
    }

    /// With faults to come.
    pub(super) fn start_faulty(plan: &Arc<Plan>) -> Self {
        Self::start_on(|folder| {
            let inner = Arc::new(SparseFiles::new(folder).unwrap());
            Arc::new(Faulty::new(inner, Arc::clone(plan)))
        })
    }

    /// A volume `v`, and a session of the first mount of a client with a write to it under way, until something is sent
    /// to what comes last.
    pub(super) async fn with_write_under_way() -> (Self, Arc<Identity>, Client, std::sync::mpsc::Sender<()>) {
        let plan = Arc::new(Plan::default());
        let bed = Self::start_faulty(&plan);
        bed.volume("v", 10, &[]);
        let identity = Arc::new(Identity::generate());
        bed.allow(&identity, Access::ReadWrite);
        let mut client = bed.session(&identity, 1).await.unwrap();
        let handle = client.open_to_change("v").await.handle;
        let (go_on, gate) = std::sync::mpsc::channel();
        plan.next(Call::Write, Fault::Wait(gate));
        let body = write_body(handle, &[(0, b"late")]);
        send(&mut client.lane.0, &client.traffic, Kind::Write, 9, body).await;
        while plan.left(Call::Write) > 0 {
            tokio::task::yield_now().await;
        }
        (bed, identity, client, go_on)
    }

    pub(super) fn start_with(
        backend: impl FnOnce(&std::path::Path) -> Arc<dyn Backend>,
        read_only: bool,
        bounds: Bounds,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let backend = backend(folder.path());
        Self::serve(folder, state, backend, read_only, bounds)
    }

    fn serve(
        folder: tempfile::TempDir,
        state: tempfile::TempDir,
        backend: Arc<dyn Backend>,
        read_only: bool,
        bounds: Bounds,
    ) -> Self {
        let identity = Identity::generate();
        let endpoint = endpoint::server(&identity, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let server = Server::with_bounds(backend, state.path().to_owned(), read_only, bounds).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn({
            let server = Arc::clone(&server);
            async move { server.run(endpoint, async move { drop(stopped.await) }).await }
        });
        Self {
            folder,
            state,
            server,
            address,
            key: identity.id(),
            stop: Some(stop),
            running,
        }
    }

    pub(super) fn allow(&self, identity: &Identity, access: Access) {
        AllowList::change(self.state.path(), |list| list.allow(identity.id(), None, access)).unwrap();
    }

    pub(super) fn volume(&self, name: &str, size: u64, writes: &[(u64, &[u8])]) {
        let file = std::fs::File::create(self.folder.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        writes
            .iter()
            .for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).unwrap());
    }

    pub(super) async fn connect(&self, identity: &Identity) -> (Endpoint, Connection) {
        self.try_connect(identity).await.expect("a connection")
    }

    pub(super) async fn try_connect(&self, identity: &Identity) -> Option<(Endpoint, Connection)> {
        let mut endpoint = endpoint::client(self.address).unwrap();
        endpoint.set_default_client_config(endpoint::client_config(identity, self.key).0);
        let connecting = endpoint.connect(self.address, tls::SERVER_NAME).unwrap();
        Some((endpoint, connecting.await.ok()?))
    }

    /// Another server process on the same folder and state, with another key: this one is just left.
    pub(super) async fn restart(mut self) -> Self {
        drop(self.stop.take());
        self.running.await.unwrap().unwrap();
        let backend = Arc::new(SparseFiles::new(self.folder.path()).unwrap());
        Self::serve(self.folder, self.state, backend, false, Bounds::default())
    }

    pub(super) async fn client(&self) -> Client {
        let identity = Identity::generate();
        self.allow(&identity, Access::ReadWrite);
        Client::new(self.connect(&identity).await, identity, Features::KNOWN).await
    }

    /// A session of one mount of a client that is allowed already.
    pub(super) async fn session(&self, identity: &Arc<Identity>, instance: u8) -> Result<Client, CloseCode> {
        let connected = self.connect(identity).await;
        let instance = Some(InstanceId([instance; 16]));
        Client::begin(connected, Arc::clone(identity), Features::KNOWN, instance).await
    }

    /// Nobody waits for a client whose session ended: another may write at once.
    pub(super) async fn let_others_write(&self, name: &str) {
        self.server.break_lease(&path(name)).await.unwrap();
    }

    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        self.running.await.unwrap().unwrap();
    }
}

pub(super) struct Client {
    pub(super) _endpoint: Endpoint,
    pub(super) connection: Connection,
    pub(super) identity: Arc<Identity>,
    pub(super) welcome: Welcome,
    pub(super) _control: (SendStream, RecvStream),
    pub(super) lane: (SendStream, RecvStream),
    pub(super) traffic: Traffic,
    pub(super) last: u64,
}

impl Client {
    pub(super) async fn new(
        (endpoint, connection): (Endpoint, Connection),
        identity: impl Into<Arc<Identity>>,
        features: Features,
    ) -> Self {
        let begun = Self::begin((endpoint, connection), identity, features, None).await;
        begun.unwrap_or_else(|code| panic!("the server closed with {code:?}"))
    }

    pub(super) async fn begin(
        (endpoint, connection): (Endpoint, Connection),
        identity: impl Into<Arc<Identity>>,
        features: Features,
        instance: Option<InstanceId>,
    ) -> Result<Self, CloseCode> {
        Self::begin_impatient((endpoint, connection), identity, features, instance, None).await
    }

    pub(super) async fn begin_impatient(
        (endpoint, connection): (Endpoint, Connection),
        identity: impl Into<Arc<Identity>>,
        features: Features,
        instance: Option<InstanceId>,
        patience_ms: Option<u32>,
    ) -> Result<Self, CloseCode> {
        let traffic = Traffic::default();
        // The server may have closed it by now, or while this says hello.
        let Ok(mut control) = connection.open_bi().await else {
            return Err(CloseCode::of(&connection.closed().await).expect("a code").0);
        };
        let hello = Hello {
            version: 7,
            features,
            agent: "test".to_owned(),
            instance,
            patience_ms,
        };
        let body = message::encode(&hello);
        let (kind, code) = (Kind::Hello, Code::Done);
        drop(frames::write_frame(&mut control.0, &traffic, kind, code, RequestId(1), body).await);
        let header = match frames::read_header(&mut control.1, &traffic, Sender::Server).await {
            Ok(header) => header.expect("a frame"),
            Err(_) => return Err(CloseCode::of(&connection.closed().await).expect("a code").0),
        };
        assert_eq!((header.kind, header.code), (Kind::Hello, Code::Done));
        let body = frames::read_body(&mut control.1, &traffic, &header)
            .await
            .unwrap();
        let welcome = message::decode(&body).unwrap();
        let lane = connection.open_bi().await.unwrap();
        Ok(Self {
            _endpoint: endpoint,
            connection,
            identity: identity.into(),
            welcome,
            _control: control,
            lane,
            traffic,
            last: 1,
        })
    }

    /// All frames of the reply.
    pub(super) async fn ask(&mut self, kind: Kind, body: Vec<u8>) -> Result<Vec<Vec<u8>>, ErrorCode> {
        self.last += 1;
        send(&mut self.lane.0, &self.traffic, kind, self.last, body).await;
        let mut bodies = Vec::new();
        loop {
            let (header, body) = receive(&mut self.lane.1, &self.traffic).await;
            assert_eq!((header.kind, header.request), (kind, RequestId(self.last)));
            match header.code {
                Code::Failed(code) => return Err(code),
                Code::More => bodies.push(body),
                Code::Done => {
                    bodies.push(body);
                    return Ok(bodies);
                }
            }
        }
    }

    pub(super) async fn stat(&mut self, path: &str) -> Result<Attr, ErrorCode> {
        Ok(message::decode(&self.ask(Kind::Stat, path_request(path)).await?[0]).unwrap())
    }

    pub(super) async fn open(&mut self, path: &str) -> Opened {
        message::decode(&self.ask(Kind::Open, open_request(path)).await.unwrap()[0]).unwrap()
    }

    /// A request with one frame of reply.
    pub(super) async fn get<T: for<'b> Decode<'b, ()> + Message>(
        &mut self,
        kind: Kind,
        request: &impl Encode<()>,
    ) -> Result<T, ErrorCode> {
        let body = message::encode(request);
        Ok(message::decode(&self.ask(kind, body).await?[0]).unwrap())
    }

    /// A request without one.
    pub(super) async fn tell(&mut self, kind: Kind, request: &impl Encode<()>) -> Result<(), ErrorCode> {
        let bodies = self.ask(kind, message::encode(request)).await?;
        assert_eq!(bodies, [b""]);
        Ok(())
    }

    pub(super) async fn open_to_change(&mut self, name: &str) -> Opened {
        let request = OpenRequest {
            path: path(name),
            write: true,
            lease: None,
        };
        self.get(Kind::Open, &request).await.unwrap()
    }

    pub(super) async fn write(&mut self, handle: Handle, writes: &[(u64, &[u8])]) -> Result<Attr, ErrorCode> {
        let bodies = self.ask(Kind::Write, write_body(handle, writes)).await?;
        Ok(message::decode(&bodies[0]).unwrap())
    }

    pub(super) async fn map(&mut self, handle: Handle, range: ByteRange, pages_max: u32) -> Vec<MapPage> {
        let request = MapRequest {
            handle,
            start: range.start(),
            end: range.end(),
            pages_max,
        };
        let bodies = self.ask(Kind::Map, message::encode(&request)).await.unwrap();
        bodies.iter().map(|body| MapPage::decode(body).unwrap()).collect()
    }

    pub(super) async fn read(
        &mut self,
        handle: Handle,
        ranges: &[(u64, u64)],
    ) -> Result<(u64, Vec<u8>), ErrorCode> {
        let ranges = ranges
            .iter()
            .map(|(start, len)| ByteRange::at(*start, *len).unwrap())
            .collect();
        let request = ReadRequest::new(handle, ranges).unwrap();
        let bodies = self.ask(Kind::Read, request.encode()).await?;
        let (head, payload) = bodies[0].split_at(request.reply_head_bytes());
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let (base, codec) = request.decode_reply_head(head, payload_bytes).unwrap();
        assert_eq!(codec, None);
        Ok((base.0, payload.to_vec()))
    }

    /// How the server closed.
    pub(super) async fn closed(&self) -> (CloseCode, String) {
        let error = timeout(Duration::from_secs(10), self.connection.closed())
            .await
            .expect("the server closes");
        CloseCode::of(&error).unwrap_or_else(|| panic!("not closed by the server: {error}"))
    }
}

pub(super) fn path(name: &str) -> NodePath {
    NodePath::new(name.as_bytes()).unwrap()
}

pub(super) fn write_body(handle: Handle, writes: &[(u64, &[u8])]) -> Vec<u8> {
    let len = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
    let ranges = writes
        .iter()
        .map(|(offset, bytes)| ByteRange::at(*offset, len(bytes)).unwrap());
    let mut body = WriteRequest::new(handle, ranges.collect()).unwrap().encode_head();
    writes.iter().for_each(|(_, bytes)| body.extend_from_slice(bytes));
    body
}

pub(super) fn path_request(path: &str) -> Vec<u8> {
    message::encode(&PathRequest {
        path: NodePath::new(path.as_bytes()).unwrap(),
    })
}

pub(super) fn open_request(path: &str) -> Vec<u8> {
    message::encode(&OpenRequest {
        path: NodePath::new(path.as_bytes()).unwrap(),
        write: false,
        lease: None,
    })
}

pub(super) async fn send(
    stream: &mut SendStream,
    traffic: &Traffic,
    kind: Kind,
    request: u64,
    body: Vec<u8>,
) {
    frames::write_frame(stream, traffic, kind, Code::Done, RequestId(request), body)
        .await
        .unwrap();
}

pub(super) async fn receive(stream: &mut RecvStream, traffic: &Traffic) -> (Header, Vec<u8>) {
    let header = frames::read_header(stream, traffic, Sender::Server)
        .await
        .unwrap()
        .expect("a frame");
    let body = frames::read_body(stream, traffic, &header).await.unwrap();
    (header, body)
}
