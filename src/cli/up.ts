import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { RegionName } from '../directory/topology.ts'
import type { FleetConfig } from '../fleet/config.ts'
import type { EmbeddedFleet } from '../fleet/fleet.ts'
import { quietRuntime, resolveConfig, startFleet } from '../fleet/fleet.ts'
import { GatewayProcesses } from '../fleet/gateway-processes.ts'
import { findSupervisor, type GatewayAddress } from '../fleet/registry.ts'
import type { CommonOptions } from './attach.ts'
import type { ClosedShard } from './closed-shards.ts'
import { closedShards, describeClosed } from './closed-shards.ts'
import { printError, printJson, printLine, progressLine } from './output.ts'
import { stepControl } from './step-control.ts'

export interface UpOptions extends CommonOptions {
  readonly wan?: boolean | string
}

/** What `up` says once the fleet takes requests. */
export interface UpDocument {
  /** Whether every shard takes traffic. */
  readonly ready: boolean
  readonly tookMs: number
  readonly dataDir: string
  readonly gateways: readonly GatewayAddress[]
  /** The shards that take no traffic: what the fleet started without, or what a cutover holds. */
  readonly closed: readonly ClosedShard[]
}

/** `holdfast up`: supervisor, one gateway process a region, until Ctrl-C, `holdfast down` or SIGTERM. */
export async function up(options: UpOptions): Promise<void> {
  // One document is all that goes to stdout: what fails after it is told on stderr.
  let json = options.json === true
  const showReady = (document: UpDocument) => {
    if (json) printJson(document)
    else showGateways(document)
    json = false
  }
  try {
    await run(options, showReady)
  } catch (error) {
    process.exitCode = printError(error, json)
  }
}

async function run(options: UpOptions, showReady: (document: UpDocument) => void): Promise<void> {
  const started = systemClock.monotonicMs()
  requireOwnOptions(options)
  const wan = wanOf(options.wan)
  const { reference, config } = await resolveConfig({ config: options.config })
  await requireFree(config.dataDir)
  const interrupted = signalled()
  const onStep = stepControl(process.env, process)
  const fleet = await startFleet(reference, config, wan, { ...quietRuntime, progress: progressLine, onStep })
  // From here on the supervisor knows that somebody stops it when it is asked to.
  const asked = fleet.supervisor.stopRequested()
  const gateways = gatewaysOf(config, fleet)
  const serving = async () => {
    await Promise.all([...config.regions.keys()].map((region) => gateways.start(region)))
    await fleet.announce(gateways.addresses)
    const tookMs = Math.round(systemClock.monotonicMs() - started)
    const shards = Object.entries(fleet.supervisor.topology.document.shards)
    const states = shards.map(([shard, { state }]) => ({ shard, state }))
    const closed = await closedShards(config.dataDir, states)
    const ready = closed.length === 0
    showReady({ ready, tookMs, dataDir: config.dataDir, gateways: gateways.addresses, closed })
    await asked
  }
  try {
    await Promise.race([interrupted, serving()])
    progressLine({ step: 'stop', detail: 'gateways, then servers' })
  } finally {
    await gateways.stop()
    await fleet.stop()
  }
}

/** What the configuration decides cannot be chosen at the start. */
function requireOwnOptions({ dataDir, region }: UpOptions): void {
  if (dataDir !== undefined) {
    throw new HoldfastError('argument_invalid', 'up takes its data directory from the configuration', {
      hint: `write dataDir: ${resolve(dataDir)} there, and leave --data-dir out`,
    })
  }
  if (region !== undefined) {
    throw new HoldfastError('argument_invalid', 'up serves every region of the configuration', {
      hint: 'leave --region out',
    })
  }
}

/** Before anything is touched; the lock decides between two that come at once. */
async function requireFree(dataDir: string): Promise<void> {
  const held = await findSupervisor(dataDir)
  if (held === undefined) return
  throw new HoldfastError('fleet_locked', `the data directory is held by process ${held.pid}`, {
    hint: 'attach to it with the other commands, or stop it first with: holdfast down',
    detail: { pid: held.pid, dataDir },
  })
}

function gatewaysOf(config: FleetConfig, fleet: EmbeddedFleet): GatewayProcesses {
  const tell = (error: unknown) => void printError(error, false)
  return new GatewayProcesses({
    program: fileURLToPath(new URL('./cli.js', import.meta.url)),
    args: (region) => ['gateway', '--data-dir', config.dataDir, '--region', region, '--port', portOf(config, region)],
    clock: systemClock,
    onChange: (addresses) => void fleet.announce(addresses).catch(tell),
    onTrouble: (_region, error) => tell(error),
  })
}

function showGateways({ ready, gateways, tookMs, closed }: UpDocument): void {
  for (const { region, url } of gateways) printLine(`${region.padEnd(16)} ${url}`)
  for (const shard of closed) printLine(describeClosed(shard))
  const what = ready ? 'ready' : 'up, not ready,'
  printLine(`${what} after ${tookMs} ms; stop it with Ctrl-C or: holdfast down`)
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
  if (option.trim() !== '' && Number.isFinite(ms) && ms >= 0) return ms
  throw new HoldfastError('argument_invalid', `--wan ${option} is not a number of milliseconds`, {
    hint: 'write --wan 80, or --wan alone for the links of the configuration',
  })
}

/** The first one stops the fleet. Those that follow change nothing: servers that are not stopped in order stay behind. */
function signalled(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        progressLine({ step: 'stop', detail: `asked by ${signal}` })
        resolve()
      })
    }
  })
}
