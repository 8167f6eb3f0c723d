import type { Employee, PlannedRun } from './payledger.ts'

/** The tenants of the production day, small enough to read and always the same. */

export const tenants = ['globex-eu', 'acme-de', 'initech-us'] as const

export const departments = ['hq', 'sales', 'support', 'engineering', 'logistics'] as const

/** The run of the story: the April pay of everyone at one tenant's headquarters. */
export const april: PlannedRun = { tenant: 'globex-eu', run: 'apr-2026', department: 'hq' }

export const openingBalanceCents = 100_000_000_00n

const names = ['Ada', 'Barbara', 'Edsger', 'Frances', 'Grace', 'Ivan', 'Jim', 'Leslie', 'Mary', 'Tony'] as const

export function employeesOf(tenant: string): Employee[] {
  return departments.flatMap((department, row) =>
    names.map((name, column) => ({
      id: `${department}-${column + 1}`,
      department,
      name: `${name} of ${tenant}`,
      iban: `XX00 ${tenant.toUpperCase()} ${row}${column}`,
      salaryCents: 3_200_00n + BigInt(row * 410_00 + column * 137_50),
    })),
  )
}

/** One run a department and tenant, named by the month. */
export function planOf(month: string, tenantsToClose: readonly string[] = tenants): PlannedRun[] {
  return departments.flatMap((department) =>
    tenantsToClose.map((tenant) => ({ tenant, run: `${month}-${department}`, department })),
  )
}
