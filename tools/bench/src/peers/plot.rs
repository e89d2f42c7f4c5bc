//! Plots as SVG: bars per phase, and latencies over percentiles.

use super::{Class, Peer, QUANTILES, by_phase};
use crate::measure::Figures;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

const SIZE: (u32, u32) = (1000, 480);
const COLOURS: [RGBColor; 8] = [
    RGBColor(200, 40, 40),
    RGBColor(90, 90, 90),
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

fn engines(class: Class, peers: &[Peer]) -> Vec<&str> {
    peers.iter().filter(|peer| peer.class == class).map(|peer| peer.name.as_str()).collect()
}

pub(super) fn all(
    dir: &Path,
    peers: &[Peer],
    rates: &Figures,
    latencies: &Figures,
) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    for class in Class::ALL {
        let path = dir.join(format!("rates-{}.svg", class.name()));
        bars(&SVGBackend::new(&path, SIZE).into_drawing_area(), class, peers, rates)?;
        for kind in ["get", "put"] {
            let path = dir.join(format!("latency-{kind}-{}.svg", class.name()));
            lines(&SVGBackend::new(&path, SIZE).into_drawing_area(), class, kind, peers, latencies)?;
        }
    }
    Ok(())
}

/// A group of bars for each phase, one bar for each engine, on a logarithmic axis.
fn bars(area: &Area<'_>, class: Class, peers: &[Peer], rates: &Figures) -> Result<(), Box<dyn Error>> {
    area.fill(&WHITE)?;
    let (phases, medians) = by_phase(class, peers, rates);
    let engines = engines(class, peers);
    let most = medians.values().copied().fold(1.0, f64::max) * 2.0;
    let least = medians.values().copied().fold(most, f64::min) / 2.0;
    if phases.is_empty() {
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} class: thousand calls per second", class.name()), ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..phases.len() as f64, (least..most).log_scale())?;
    let label = |x: &f64| phases.get(*x as usize).cloned().unwrap_or_default();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .x_labels(0)
        .x_label_formatter(&label)
        .y_desc("k/s")
        .draw()?;
    for (i, phase) in phases.iter().enumerate() {
        let at = chart.backend_coord(&(i as f64 + 0.05, least));
        let style = ("sans-serif", 11).into_font().color(&BLACK);
        area.draw_text(phase, &style, (at.0, at.1 + 6 + 14 * (i as i32 % 2)))?;
    }
    let width = 0.9 / engines.len() as f64;
    for (e, engine) in engines.iter().enumerate() {
        let of_engine = phases.iter().enumerate().filter_map(|(i, phase)| {
            let rate = medians.get(&(phase.clone(), (*engine).to_string()))?;
            let left = i as f64 + 0.05 + e as f64 * width;
            Some(Rectangle::new([(left, least), (left + width * 0.9, *rate)], colour(e).filled()))
        });
        chart
            .draw_series(of_engine)?
            .label(*engine)
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour(e).filled()));
    }
    legend(&mut chart)?;
    area.present()?;
    Ok(())
}

fn legend<'a, C: plotters::coord::CoordTranslate + 'a>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
) -> Result<(), Box<dyn Error>> {
    let style = WHITE.mix(0.8);
    chart
        .configure_series_labels()
        .background_style(style)
        .border_style(BLACK)
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    Ok(())
}

/// A line for each engine over the percentiles.
fn lines(
    area: &Area<'_>,
    class: Class,
    kind: &str,
    peers: &[Peer],
    latencies: &Figures,
) -> Result<(), Box<dyn Error>> {
    area.fill(&WHITE)?;
    let (_, medians) = by_phase(class, peers, latencies);
    let engines = engines(class, peers);
    let machine: Vec<f64> = QUANTILES
        .iter()
        .filter_map(|(quantile, _)| {
            latencies.median(&format!("the machine itself, no store: {kind} {quantile}"))
        })
        .collect();
    let mut series: Vec<(&str, Vec<f64>)> = engines
        .iter()
        .map(|engine| {
            let at = |quantile: &str| medians.get(&(format!("{kind} {quantile}"), (*engine).to_string()));
            (*engine, QUANTILES.iter().filter_map(|(quantile, _)| at(quantile).copied()).collect())
        })
        .collect();
    series.push(("the machine itself", machine));
    let numbers = || series.iter().flat_map(|(_, numbers)| numbers.iter().copied()).filter(|us| *us > 0.0);
    let (least, most) = (numbers().fold(f64::INFINITY, f64::min) / 2.0, numbers().fold(1.0, f64::max) * 2.0);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} class: latency of a {kind}, open loop, us", class.name()), ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(
            0.0..(QUANTILES.len() as f64 - 1.0),
            (least.min(most / 10.0)..most).log_scale(),
        )?;
    let label = |x: &f64| QUANTILES.get(x.round() as usize).map_or("", |(name, _)| *name).to_string();
    chart.configure_mesh().x_labels(QUANTILES.len()).x_label_formatter(&label).y_desc("us").draw()?;
    for (e, (engine, numbers)) in series.iter().enumerate() {
        let points = numbers.iter().enumerate().map(|(i, us)| (i as f64, *us));
        chart
            .draw_series(LineSeries::new(points, colour(e).stroke_width(2)))?
            .label(*engine)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour(e).stroke_width(2)));
    }
    legend(&mut chart)?;
    area.present()?;
    Ok(())
}
