import { expect, test } from 'vitest'
import { missingTwoPhaseFixes } from './two-phase-fixes.ts'

test.each([
  ['15.19', '15.20'],
  ['15.20', undefined],
  ['16.9', '16.16'],
  ['16.16', undefined],
  ['17.11', '17.12'],
  ['17.12', undefined],
  ['18.4', '18.7'],
  ['18.10', undefined],
  ['18beta1', '18.7'],
])('HZ-X8: of %s the version to have is %s', (version, first) => {
  expect(missingTwoPhaseFixes(version)).toBe(first)
})

test('a major that is not known is not taken for one with the fixes', () => {
  expect(() => missingTwoPhaseFixes('19.1')).toThrow('19.1')
})
