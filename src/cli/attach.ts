import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { FleetConfig } from '../fleet/config.ts'
import { loadConfig } from '../fleet/config.ts'
import { attachFleet, quietRuntime } from '../fleet/fleet.ts'
import type { Gateway } from '../fleet/gateway.ts'
import { configOf, requireSupervisor } from '../fleet/registry.ts'
import { findStartedFrom } from '../fleet/started-from.ts'
import { exitCodes, printError, printJson } from './output.ts'

/** What every command takes. */
export interface CommonOptions {
  readonly json?: boolean
  readonly config: string
  readonly dataDir?: string
  readonly region?: string
}

/** The options of a command, with those that stand before it. */
export function optionsOf<Own extends object = object>(command: Command): CommonOptions & Own {
  return command.optsWithGlobals<CommonOptions & Own>()
}

/** The data directory that a command is about. */
export async function dataDirOf(options: CommonOptions): Promise<string> {
  return options.dataDir === undefined ? (await configFor(options)).dataDir : resolve(options.dataDir)
}

/**
 * The configuration that a command is about: that of the file, and where it is not one any more, what the fleet that was started
 * from it runs by. A data directory knows the one that runs on it.
 */
export async function configFor(options: CommonOptions): Promise<FleetConfig> {
  if (options.dataDir !== undefined) return configOf(await requireSupervisor(resolve(options.dataDir)))
  try {
    return await loadConfig(options.config)
  } catch (error) {
    const running = await findStartedFrom(options.config)
    if (running === undefined) throw error
    return configOf(running)
  }
}

/** Runs a command on the running fleet; prints its document with `--json`, else what `show` makes of it. */
export async function withFleet<T>(
  options: CommonOptions,
  use: (fleet: Gateway) => Promise<T>,
  show: (result: T) => void,
  failed: (result: T) => boolean = never,
): Promise<void> {
  await report(
    options,
    async () => {
      const fleet = await attachFleet(await dataDirOf(options), options.region, { ...quietRuntime, services: false })
      try {
        return await use(fleet)
      } finally {
        await fleet.close()
      }
    },
    show,
    failed,
  )
}

/**
 * Runs a command to its end; every error ends here, as its exit code and its message. A result that `failed` says is a
 * failed check is printed all the same, and has that exit code.
 */
export async function report<T>(
  options: Pick<CommonOptions, 'json'>,
  run: () => Promise<T>,
  show: (result: T) => void,
  failed: (result: T) => boolean = never,
): Promise<void> {
  const json = options.json === true
  try {
    const result = await run()
    if (json) printJson(result)
    else show(result)
    if (failed(result)) process.exitCode = exitCodes.check_failed
  } catch (error) {
    process.exitCode = printError(error, json)
  }
}

function never(): boolean {
  return false
}
