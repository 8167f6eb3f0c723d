#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { addDoctorCommand } from './commands/doctor.ts'
import { addLifecycleCommands } from './commands/lifecycle.ts'
import { addOperationCommands } from './commands/operations.ts'
import { addTransactionCommands } from './commands/transactions.ts'
import { exitCodes } from './output.ts'
import { runGateway } from './gateway.ts'

/** The `holdfast` command. What each one prints and returns is in docs/reference/cli.md. */
export function buildProgram(): Command {
  const program = new Command('holdfast')
    .description('A geo-partitioned data platform on PostgreSQL that can prove what happened.')
    .option('--config <file>', 'the configuration', 'holdfast.yaml')
    .option('--data-dir <dir>', 'the data directory, instead of a configuration')
    .option('--region <region>', 'the region to act from; the first one otherwise')
    .option('--json', 'print one JSON document on stdout')
    .exitOverride()
  addLifecycleCommands(program)
  addDoctorCommand(program)
  addTransactionCommands(program)
  addOperationCommands(program)
  program
    .command('gateway', { hidden: true })
    .option('--port <port>')
    .action((_options: unknown, command: Command) => runGateway(command.optsWithGlobals()))
  return program
}

async function main(): Promise<void> {
  try {
    await buildProgram().parseAsync()
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Help and version also end here, with code 0.
    process.exitCode = error.exitCode === 0 ? exitCodes.done : exitCodes.invalid
  }
}

await main()
