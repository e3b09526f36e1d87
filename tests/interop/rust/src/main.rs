//! A rust-libp2p peer, steered by JSON lines: {"id", "do", ...} in, {"id", "ok"} or {"id", "error"} out.
//!
//!     interop-peer <secp256k1|ed25519> <secret in hex> <network>
//!
//! The first line out says who and where it is. What it can do is in `Steered::carry_out`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::error::Error;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify, identity, kad, multiaddr::Protocol,
    noise, ping, tcp, yamux,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncBufReadExt;

type Fault = Box<dyn Error + Send + Sync>;

const ECHO: StreamProtocol = StreamProtocol::new("/interop/echo/1");

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    gossipsub: gossipsub::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    stream: libp2p_stream::Behaviour,
}

struct Steered {
    swarm: Swarm<Behaviour>,
    known: HashMap<PeerId, identify::Info>,
    dialling: Vec<(PeerId, u64)>,
    pinging: Vec<(PeerId, u64)>,
    identifying: Vec<(PeerId, u64)>,
    listening: Vec<(String, u64)>,
    heard: HashMap<String, VecDeque<Value>>,
    asking: HashMap<kad::QueryId, (u64, PeerId)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let told: Vec<String> = std::env::args().collect();
    let key = keypair(&told[1], &told[2])?;
    let kad_protocol = StreamProtocol::try_from_owned(format!("/golem-p2p/{}/kad/1.0.0", told[3]))?;
    let mut swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key| {
            let me = key.public().to_peer_id();
            let mut table = kad::Behaviour::with_config(me, MemoryStore::new(me), kad::Config::new(kad_protocol));
            table.set_mode(Some(kad::Mode::Server));
            let introduction = identify::Config::new("interop/1".into(), key.public());
            Ok(Behaviour {
                ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(1))),
                identify: identify::Behaviour::new(introduction.with_agent_version("interop rust".into())),
                gossipsub: gossipsub::Behaviour::new(
                    gossipsub::MessageAuthenticity::Signed(key.clone()),
                    gossipsub::Config::default(),
                )?,
                kad: table,
                stream: libp2p_stream::Behaviour::new(),
            })
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build();

    let mut incoming = swarm.behaviour().stream.new_control().accept(ECHO)?;
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                if futures::io::copy(&mut reader, &mut writer).await.is_ok() {
                    let _ = writer.close().await;
                }
            });
        }
    });

    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let mut it = Steered {
        swarm,
        known: HashMap::new(),
        dialling: vec![],
        pinging: vec![],
        identifying: vec![],
        listening: vec![],
        heard: HashMap::new(),
        asking: HashMap::new(),
    };
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            event = it.swarm.select_next_some() => it.happened(event),
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let order: Value = serde_json::from_str(&line)?;
                let id = order["id"].as_u64().ok_or("an order has no id")?;
                if let Err(fault) = it.carry_out(id, &order) {
                    refuse(id, &fault.to_string());
                }
            }
        }
    }
}

impl Steered {
    fn carry_out(&mut self, id: u64, order: &Value) -> Result<(), Fault> {
        let text = |name: &str| order[name].as_str().ok_or(format!("{name} is missing"));
        let peer = || -> Result<PeerId, Fault> { Ok(text("peer")?.parse()?) };
        let bytes = |name: &str| -> Result<Vec<u8>, Fault> { Ok(BASE64.decode(text(name)?)?) };
        match text("do")? {
            "dial" => {
                let address: Multiaddr = text("address")?.parse()?;
                let Some(Protocol::P2p(who)) = address.iter().last() else { return Err("nobody to dial".into()) };
                self.swarm.dial(DialOpts::peer_id(who).addresses(vec![address]).build())?;
                self.dialling.push((who, id));
            }
            "ping" => self.pinging.push((peer()?, id)),
            "identify" => {
                self.identifying.push((peer()?, id));
                self.tell_who();
            }
            "echo" => {
                let who = peer()?;
                let size = order["bytes"].as_u64().ok_or("bytes is missing")? as usize;
                let mut control = self.swarm.behaviour().stream.new_control();
                tokio::spawn(async move {
                    match echo(&mut control, who, size).await {
                        Ok(hash) => answer(id, json!(hash)),
                        Err(fault) => refuse(id, &fault.to_string()),
                    }
                });
            }
            "join" => {
                self.swarm.behaviour_mut().gossipsub.subscribe(&gossipsub::IdentTopic::new(text("topic")?))?;
                answer(id, Value::Null);
            }
            "mesh" => {
                let topic = gossipsub::IdentTopic::new(text("topic")?).hash();
                let all = self.swarm.behaviour().gossipsub.all_peers();
                let found: Vec<String> =
                    all.filter(|(_, topics)| topics.contains(&&topic)).map(|(who, _)| who.to_string()).collect();
                answer(id, json!(found));
            }
            "publish" => {
                let topic = gossipsub::IdentTopic::new(text("topic")?);
                self.swarm.behaviour_mut().gossipsub.publish(topic, bytes("data")?)?;
                answer(id, Value::Null);
            }
            "heard" => {
                self.listening.push((text("topic")?.into(), id));
                self.tell_heard();
            }
            "put" => {
                let record = kad::Record::new(bytes("key")?, bytes("value")?);
                let query = self.swarm.behaviour_mut().kad.put_record(record, kad::Quorum::One)?;
                self.asking.insert(query, (id, *self.swarm.local_peer_id()));
            }
            "get" => {
                let query = self.swarm.behaviour_mut().kad.get_record(bytes("key")?.into());
                self.asking.insert(query, (id, *self.swarm.local_peer_id()));
            }
            "findPeer" => {
                let who = peer()?;
                let query = self.swarm.behaviour_mut().kad.get_closest_peers(who);
                self.asking.insert(query, (id, who));
            }
            "peers" => {
                let found: HashSet<String> = self.swarm.connected_peers().map(PeerId::to_string).collect();
                answer(id, json!(found));
            }
            "hangUp" => {
                let _ = self.swarm.disconnect_peer_id(peer()?);
                answer(id, Value::Null);
            }
            other => return Err(format!("{other:?} is nothing that this peer can do").into()),
        }
        Ok(())
    }

    fn happened(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                let me = *self.swarm.local_peer_id();
                self.swarm.add_external_address(address.clone());
                say(json!({"peer": me.to_string(), "address": format!("{address}/p2p/{me}")}));
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                for (who, id) in take(&mut self.dialling, &peer_id) {
                    answer(id, json!(who.to_string()));
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer_id), error, .. } => {
                for (_, id) in take(&mut self.dialling, &peer_id) {
                    refuse(id, &error.to_string());
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result, .. })) => {
                for (_, id) in take(&mut self.pinging, &peer) {
                    match &result {
                        Ok(taken) => answer(id, json!(taken.as_millis() as u64)),
                        Err(fault) => refuse(id, &fault.to_string()),
                    }
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                for address in &info.listen_addrs {
                    self.swarm.behaviour_mut().kad.add_address(&peer_id, address.clone());
                }
                self.known.insert(peer_id, info);
                self.tell_who();
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Message { message, .. })) => {
                let from = message.source.map(|who| who.to_string());
                let told = json!({"data": BASE64.encode(&message.data), "from": from});
                self.heard.entry(message.topic.into_string()).or_default().push_back(told);
                self.tell_heard();
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. })) => {
                self.found(id, result, step.last);
            }
            _ => {}
        }
    }

    fn found(&mut self, query: kad::QueryId, result: kad::QueryResult, last: bool) {
        let Some((id, who)) = self.asking.get(&query).copied() else { return };
        let done = match result {
            kad::QueryResult::PutRecord(Ok(_)) => Some(Ok(Value::Null)),
            kad::QueryResult::PutRecord(Err(fault)) => Some(Err(fault.to_string())),
            kad::QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) => {
                Some(Ok(json!(BASE64.encode(&found.record.value))))
            }
            kad::QueryResult::GetRecord(Err(fault)) => Some(Err(fault.to_string())),
            kad::QueryResult::GetClosestPeers(Ok(found)) if last => {
                let named = found.peers.iter().find(|one| one.peer_id == who);
                Some(Ok(json!(named.map(|one| one.addrs.iter().map(Multiaddr::to_string).collect::<Vec<_>>()))))
            }
            kad::QueryResult::GetClosestPeers(Err(fault)) => Some(Err(fault.to_string())),
            _ if last => Some(Ok(Value::Null)),
            _ => None,
        };
        if let Some(done) = done {
            self.asking.remove(&query);
            match done {
                Ok(value) => answer(id, value),
                Err(fault) => refuse(id, &fault),
            }
        }
    }

    fn tell_who(&mut self) {
        let known = &self.known;
        self.identifying.retain(|(who, id)| {
            let Some(info) = known.get(who) else { return true };
            let protocols: Vec<String> = info.protocols.iter().map(ToString::to_string).collect();
            answer(*id, json!({"protocols": protocols, "agent": info.agent_version}));
            false
        });
    }

    fn tell_heard(&mut self) {
        let heard = &mut self.heard;
        self.listening.retain(|(topic, id)| match heard.get_mut(topic).and_then(VecDeque::pop_front) {
            Some(message) => {
                answer(*id, message);
                false
            }
            None => true,
        });
    }
}

async fn echo(control: &mut libp2p_stream::Control, who: PeerId, size: usize) -> Result<String, Fault> {
    let (mut reader, mut writer) = control.open_stream(who, ECHO).await?.split();
    let send = async {
        let data: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(31) + (at >> 8)) as u8).collect();
        writer.write_all(&data).await?;
        writer.close().await
    };
    let receive = async {
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 65536]);
        loop {
            match reader.read(&mut buffer).await? {
                0 => return Ok::<_, std::io::Error>(hex::encode(hash.finalize())),
                count => hash.update(&buffer[..count]),
            }
        }
    };
    Ok(futures::try_join!(send, receive)?.1)
}

fn take(waiting: &mut Vec<(PeerId, u64)>, peer: &PeerId) -> Vec<(PeerId, u64)> {
    let (found, rest) = waiting.iter().partition(|(who, _)| who == peer);
    *waiting = rest;
    found
}

fn keypair(kind: &str, secret: &str) -> Result<identity::Keypair, Fault> {
    let mut raw = hex::decode(secret)?;
    if kind == "ed25519" {
        return Ok(identity::Keypair::ed25519_from_bytes(raw)?);
    }
    let secret = identity::secp256k1::SecretKey::try_from_bytes(&mut raw)?;
    Ok(identity::secp256k1::Keypair::from(secret).into())
}

fn answer(id: u64, value: Value) {
    say(json!({"id": id, "ok": value}));
}

fn refuse(id: u64, fault: &str) {
    say(json!({"id": id, "error": fault}));
}

fn say(message: Value) {
    println!("{message}");
}
