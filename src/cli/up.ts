import { fileURLToPath } from 'node:url'
import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { RegionName } from '../directory/topology.ts'
import type { FleetConfig } from '../fleet/config.ts'
import { quietRuntime, resolveConfig, startFleet } from '../fleet/fleet.ts'
import { GatewayProcesses } from '../fleet/gateway-processes.ts'
import { findSupervisor } from '../fleet/registry.ts'
import type { CommonOptions } from './attach.ts'
import { printError, printJson, printLine, progressLine } from './output.ts'

/** `holdfast up`: supervisor, one gateway process a region, until Ctrl-C, `holdfast down` or SIGTERM. */
export async function up(options: CommonOptions & { readonly wan?: boolean | string }): Promise<void> {
  const json = options.json === true
  try {
    await run(options, json)
  } catch (error) {
    process.exitCode = printError(error, json)
  }
}

async function run(options: CommonOptions & { readonly wan?: boolean | string }, json: boolean): Promise<void> {
  const started = systemClock.monotonicMs()
  const { reference, config } = await resolveConfig({ config: options.config })
  const held = await findSupervisor(config.dataDir)
  if (held !== undefined) {
    throw new HoldfastError('fleet_locked', `the data directory is held by process ${held.pid}`, {
      hint: 'attach to it with the other commands, or stop it first with: holdfast down',
    })
  }
  const interrupted = signalled()
  const fleet = await startFleet(reference, config, wanOf(options.wan), { ...quietRuntime, progress: progressLine })
  const gateways = new GatewayProcesses(
    {
      program: fileURLToPath(new URL('./cli.js', import.meta.url)),
      args: (region) => ['gateway', '--data-dir', config.dataDir, '--region', region, '--port', portOf(config, region)],
    },
    systemClock,
    (addresses) => void fleet.announce(addresses).catch((error: unknown) => printError(error, false)),
  )
  const serving = async () => {
    await Promise.all([...config.regions.keys()].map((region) => gateways.start(region)))
    await fleet.announce(gateways.addresses)
    const tookMs = Math.round(systemClock.monotonicMs() - started)
    if (json) printJson({ ready: true, tookMs, gateways: gateways.addresses, dataDir: config.dataDir })
    else showReady(gateways, tookMs)
    await fleet.supervisor.stopRequested()
  }
  try {
    await Promise.race([interrupted, serving()])
    progressLine({ step: 'stop', detail: 'gateways, then servers' })
  } finally {
    await gateways.stop()
    await fleet.stop()
  }
}

function showReady(gateways: GatewayProcesses, tookMs: number): void {
  for (const { region, url } of gateways.addresses) printLine(`${region.padEnd(16)} ${url}`)
  printLine(`ready after ${tookMs} ms; Ctrl-C stops the fleet`)
}

/** The first region listens where the configuration says, the others on the ports after it. */
function portOf(config: FleetConfig, region: RegionName): string {
  const { port } = config.listen
  return String(port === 0 ? 0 : port + [...config.regions.keys()].indexOf(region))
}

function wanOf(option: boolean | string | undefined): boolean | number {
  if (option === undefined || option === false) return false
  if (option === true) return true
  const ms = Number(option)
  if (Number.isFinite(ms) && ms >= 0) return ms
  throw new HoldfastError('argument_invalid', `--wan ${option} is not a number of milliseconds`, {
    hint: 'write --wan 80, or --wan alone for the links of the configuration',
  })
}

function signalled(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve())
  })
}
