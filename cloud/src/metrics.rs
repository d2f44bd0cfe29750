//! What is counted, as OpenMetrics text: names, units, labels. `docs/operations.md` has the table for those who read it.
//!
//! The text is made anew for each scrape from what gateway and relay count themselves. Labels are names of the configuration
//! (device, service, exposure) and words of this program (reasons, causes), and one word of each agent: its version. Nothing
//! that a stranger can choose.

use std::fmt;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use umbilical_mux::Report;

use crate::gateway::{DeviceStatus, ExposureStatus};
use crate::relay::metrics::RelayFigure;
use crate::watched::{Readiness, Watched};

/// What `/metrics` is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const NO_LABELS: [(&str, &str); 0] = [];

/// Each name begins with it.
const PREFIX: &str = "umbilical";

/// The text for a scrape.
pub(crate) async fn page(watched: &Watched) -> String {
    let parts = watched.parts();
    let (devices, exposures) = match &parts.gateway {
        Some(gateway) => {
            gateway.ask_agents().await;
            (gateway.devices().await, gateway.exposures())
        }
        None => (Vec::new(), Vec::new()),
    };
    let relay = parts.relay.as_ref().map(|relay| relay.metrics());
    let snapshot = Snapshot {
        ready: watched.readiness() == Readiness::Ready,
        devices,
        exposures,
        relay: relay.map(|metrics| metrics.figures().to_vec()).unwrap_or_default(),
        rejections: relay.map(|metrics| metrics.rejections().collect()).unwrap_or_default(),
    };
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(snapshot));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes all that is written to it");
    page
}

#[derive(Debug)]
struct Snapshot {
    ready: bool,
    devices: Vec<DeviceStatus>,
    exposures: Vec<ExposureStatus>,
    relay: Vec<RelayFigure>,
    /// HTTP statuses with their counts.
    rejections: Vec<(u16, u64)>,
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.infos("build", "The program", [[("version", env!("CARGO_PKG_VERSION"))]])?;
        page.gauges(
            "ready",
            "Whether new connections are welcome, as /readyz says",
            None,
            [(NO_LABELS, u64::from(self.ready))],
        )?;
        self.encode_devices(&mut page)?;
        self.encode_agents(&mut page)?;
        self.encode_exposures(&mut page)?;
        self.encode_relay(&mut page)
    }
}

impl Snapshot {
    fn encode_devices(&self, page: &mut Page<'_>) -> fmt::Result {
        fn label(device: &DeviceStatus) -> [(&str, &str); 1] {
            [("device", &device.name)]
        }
        let all = || self.devices.iter();
        let each = |read: fn(&DeviceStatus) -> u64| all().map(move |device| (label(device), read(device)));
        page.gauges("device_online", "Whether there is a link", None, each(|device| u64::from(device.linked)))?;
        page.counters("device_links", "Links that came up", None, each(|device| device.links.links))?;
        page.counters(
            "device_resumes",
            "Links on which streams of before went on",
            None,
            each(|device| device.links.resumes),
        )?;
        let cuts = all().flat_map(|device| {
            let label = |&(cause, count): &(&'static str, u64)| ([("device", &*device.name), ("cause", cause)], count);
            device.links.cuts.iter().map(label)
        });
        page.counters("device_cuts", "Links that were cut, by causes that have occurred", None, cuts)?;
        let offline = all().map(|device| (label(device), device.links.offline.as_secs_f64()));
        page.counters("device_offline", "Time without a link", Some(&Unit::Seconds), offline)?;
        let resent = each(|device| device.counters.bytes_resent);
        page.counters("device_replayed", "Records sent to the device again on a new link", Some(&Unit::Bytes), resent)?;
        page.gauges("device_streams", "Streams open", None, each(|device| device.streams as u64))?;
        page.counters("device_streams_opened", "Streams opened", None, each(|device| device.counters.streams_opened))?;
        let resets = all().flat_map(|device| {
            let occurred = device.counters.streams_reset.iter().filter(|(_, count)| *count > 0);
            occurred.map(|(reason, count)| ([("device", &*device.name), ("reason", reason.text())], count))
        });
        page.counters(
            "device_streams_reset",
            "Streams that ended by a reset, by reasons that have occurred",
            None,
            resets,
        )?;
        page.counters(
            "device_received",
            "Payload from the device",
            Some(&Unit::Bytes),
            each(|device| device.bytes_in),
        )?;
        page.counters("device_sent", "Payload to the device", Some(&Unit::Bytes), each(|device| device.bytes_out))?;
        let measured = all()
            .filter_map(|device| device.round_trip_us.map(|micros| (label(device), f64::from(micros) / 1_000_000.0)));
        page.gauges("device_round_trip", "Smallest round trip of late", Some(&Unit::Seconds), measured)?;
        let stalls = each(|device| device.counters.credit_stalls);
        page.counters("device_credit_stalls", "Times that a stream to the device waited for credit", None, stalls)?;
        let used = each(|device| u64::from(device.pool_used));
        page.gauges("device_pool_used", "Shared part of the receive pool that streams hold", Some(&Unit::Bytes), used)?;
        let shared = each(|device| u64::from(device.pool_shared));
        page.gauges("device_pool", "Shared part of the receive pool", Some(&Unit::Bytes), shared)
    }

    fn encode_agents(&self, page: &mut Page<'_>) -> fmt::Result {
        let asked = || self.devices.iter().filter_map(|device| Some((&*device.name, device.agent.as_ref()?)));
        let told = || asked().filter_map(|(name, agent)| Some((name, agent.last.as_ref()?)));
        let each = |read: fn(&Report) -> u64| told().map(move |(name, last)| ([("device", name)], read(&last.0)));
        let versions = told().map(|(name, last)| [("device", name), ("version", last.0.version.as_str())]);
        page.infos("agent", "The agent's program", versions)?;
        let up = asked().map(|(name, agent)| ([("device", name)], u64::from(agent.answered)));
        page.gauges("agent_up", "Whether the agent answered when it was asked last", None, up)?;
        let at = told().map(|(name, last)| {
            let since = last.1.duration_since(UNIX_EPOCH).unwrap_or_default();
            ([("device", name)], since.as_secs_f64())
        });
        page.gauges("agent_reported_timestamp", "When the agent told what follows", Some(&Unit::Seconds), at)?;
        page.gauges("agent_uptime", "Time since its start", Some(&Unit::Seconds), each(|report| report.uptime_s))?;
        let resident = each(|report| report.resident_bytes);
        page.gauges("agent_resident_memory", "Memory that it uses", Some(&Unit::Bytes), resident)?;
        let channels = each(|report| report.control_channels);
        page.counters("agent_control_channels", "Control channels that came up at its relays", None, channels)?;
        page.gauges("agent_sessions", "Sessions, of all gateways", None, each(|report| report.sessions))?;
        page.counters("agent_links", "Links that came up, of all gateways", None, each(|report| report.links))?;
        let resumes = each(|report| report.resumes);
        page.counters("agent_resumes", "Links on which streams of before went on", None, resumes)?;
        page.gauges("agent_streams", "Streams open", None, each(|report| report.streams))?;
        page.counters("agent_streams_opened", "Streams opened", None, each(|report| report.streams_opened))?;
        let resets = told().flat_map(|(name, last)| {
            let occurred = last.0.resets.iter().filter(|(_, count)| *count > 0);
            occurred.map(move |(reason, count)| ([("device", name), ("reason", reason.text())], count))
        });
        let help = "Streams that ended by a reset, by reasons that have occurred";
        page.counters("agent_streams_reset", help, None, resets)?;
        let sent = each(|report| report.bytes_sent);
        page.counters("agent_sent", "Payload to gateways", Some(&Unit::Bytes), sent)?;
        let received = each(|report| report.bytes_received);
        page.counters("agent_received", "Payload from gateways", Some(&Unit::Bytes), received)?;
        let resent = each(|report| report.bytes_resent);
        page.counters("agent_replayed", "Records sent again on a new link", Some(&Unit::Bytes), resent)?;
        let stalls = each(|report| report.credit_stalls);
        page.counters("agent_credit_stalls", "Times that a stream to a gateway waited for credit", None, stalls)
    }

    fn encode_exposures(&self, page: &mut Page<'_>) -> fmt::Result {
        type Exposure = (String, ExposureStatus);
        fn labels((listen, exposure): &Exposure) -> [(&str, &str); 3] {
            [("exposure", listen), ("device", &exposure.device), ("service", &exposure.service)]
        }
        fn with<'l>(exposure: &'l Exposure, name: &'l str, value: &'l str) -> [(&'l str, &'l str); 4] {
            let [listen, device, service] = labels(exposure);
            [listen, device, service, (name, value)]
        }
        let all: Vec<Exposure> =
            self.exposures.iter().map(|exposure| (exposure.listen.to_string(), exposure.clone())).collect();
        let each = |read: fn(&ExposureStatus) -> u64| all.iter().map(move |one| (labels(one), read(&one.1)));
        page.gauges("exposure_connections", "Clients connected", None, each(|exposure| exposure.open as u64))?;
        let accepted = each(|exposure| exposure.accepted);
        page.counters("exposure_accepted", "Clients that connected, those turned away included", None, accepted)?;
        let turned_away = all.iter().flat_map(|one| {
            let (all, not_allowed) = (one.1.turned_away, one.1.not_allowed);
            [("not-allowed", not_allowed), ("too-many", all - not_allowed)]
                .map(|(reason, count)| (with(one, "reason", reason), count))
        });
        page.counters("exposure_turned_away", "Clients that were not let in", None, turned_away)?;
        let unreached = each(|exposure| exposure.unreached);
        page.counters("exposure_unreached", "Clients whose device was not reached", None, unreached)?;
        let resets = all.iter().flat_map(|one| {
            let occurred = one.1.resets.iter().filter(|(_, count)| *count > 0);
            occurred.map(|(reason, count)| (with(one, "reason", reason.text()), count))
        });
        page.counters(
            "exposure_streams_reset",
            "Streams of clients that ended by a reset, by reasons that have occurred",
            None,
            resets,
        )?;
        let dropped = each(|exposure| exposure.dropped);
        page.counters("exposure_dropped_datagrams", "Datagrams that were dropped here", None, dropped)?;
        let received = each(|exposure| exposure.bytes_in);
        page.counters(
            "exposure_received",
            "Payload from the device, of clients that have left",
            Some(&Unit::Bytes),
            received,
        )?;
        let sent = each(|exposure| exposure.bytes_out);
        page.counters("exposure_sent", "Payload to the device, of clients that have left", Some(&Unit::Bytes), sent)
    }

    fn encode_relay(&self, page: &mut Page<'_>) -> fmt::Result {
        for figure in &self.relay {
            let (name, help, value) = (figure.name, figure.help, figure.value);
            let unit = figure.in_bytes.then_some(&Unit::Bytes);
            if figure.only_grows {
                page.counters(name, help, unit, [(NO_LABELS, value)])?;
            } else {
                page.gauges(name, help, unit, [(NO_LABELS, value)])?;
            }
        }
        let statuses: Vec<_> = self.rejections.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        let rejections = statuses.iter().map(|(status, count)| ([("status", &**status)], *count));
        page.counters("relay_rejections", "Handshakes refused, by HTTP statuses that have occurred", None, rejections)
    }
}

/// The text that is being written.
struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    /// A counter, whose name gets `_total`, with its series.
    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Labels without a value; the name gets `_info`.
    fn infos<L: EncodeLabelSet>(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = L>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        series.into_iter().try_for_each(|labels| metric.encode_info(&labels))
    }
}
