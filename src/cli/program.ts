import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import { addDirectoryCommands } from './commands/directory.ts'
import { addDoctorCommand } from './commands/doctor.ts'
import { addKeyCommands } from './commands/keys.ts'
import { addDriftCommands } from './commands/drift.ts'
import { addLifecycleCommands } from './commands/lifecycle.ts'
import { addRecoveryCommands } from './commands/recovery.ts'
import { addTransactionCommands } from './commands/transactions.ts'

/** Every command with its arguments and options. Building it parses nothing and starts nothing. */
export function buildProgram(): Command {
  const program = new Command('holdfast')
    .description('A geo-partitioned data platform on PostgreSQL that can prove what happened.')
    .option('--config <file>', 'the configuration', 'holdfast.yaml')
    .option('--data-dir <dir>', 'the data directory of a running fleet, instead of a configuration')
    .option('--region <region>', 'the region to act from; the first one of the configuration when left out')
    .option('--json', 'print one JSON document on stdout')
    .version(packageVersion(), '--version', 'print the version')
    .configureHelp({ showGlobalOptions: true })
    // A wrong command line is told like every other error, by whoever runs this.
    .configureOutput({ outputError: () => undefined })
    .exitOverride()
  addLifecycleCommands(program)
  addDoctorCommand(program)
  addDirectoryCommands(program)
  addKeyCommands(program)
  addDriftCommands(program)
  addTransactionCommands(program)
  addRecoveryCommands(program)
  program
    .command('gateway', { hidden: true })
    .option('--port <port>')
    .action(async (_options: unknown, command: Command) => {
      // Only a gateway needs what HTTP takes to load.
      const { runGateway } = await import('./gateway.ts')
      await runGateway(command.optsWithGlobals())
    })
  return program
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return String((JSON.parse(text) as { readonly version: unknown }).version)
}
